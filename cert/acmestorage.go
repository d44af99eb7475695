package cert

// What is kept for ACME, by the keys of a certmagic.Storage, and locks.

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
)

// acmeStorage is a certmagic.Storage with our keys:
//
//	accounts/CA/ID.json      an account and its key
//	certificates/CA/NAME.pem a key, then the chain: one file, so that nobody reads half
//	attempts/CA/NAME.json    the failures since the last success
//	holds/CA.json            until when the authority wants to be left alone
//	challenges/…             what is to be answered, for nodes that share the storage
type acmeStorage struct{ certmagic.Storage }

// caKey is a directory URL as part of a key.
func caKey(directory string) string {
	key := directory
	if u, err := url.Parse(directory); err == nil {
		key = u.Host + strings.ReplaceAll(strings.TrimSuffix(u.Path, "/"), "/", "-")
	}
	return certmagic.StorageKeys.Safe(key)
}

func nameKey(kind, directory, name, ext string) string {
	return kind + "/" + caKey(directory) + "/" + certmagic.StorageKeys.Safe(name) + ext
}

// digest is a short text for a long one.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}

// acmeCertificate is a certificate with its files' text.
type acmeCertificate struct {
	tls.Certificate
	pem       []byte
	directory string // of the authority that it is from
}

// of reports whether the certificate is what an order with settings gives.
func (c *acmeCertificate) of(settings *ACMESettings) bool {
	return c.directory == settings.Directory && (c.Leaf.PublicKeyAlgorithm == x509.RSA) == settings.RSA
}

// readACMECertificate reads a key and a chain, in PEM.
func readACMECertificate(data []byte) (*acmeCertificate, error) {
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, err
	}
	return &acmeCertificate{Certificate: pair, pem: data}, nil
}

func (s acmeStorage) certificate(ctx context.Context, ca, name string) (*acmeCertificate, error) {
	key := nameKey("certificates", ca, name, ".pem")
	data, err := s.Load(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	c, err := readACMECertificate(data)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	c.directory = ca
	return c, nil
}

func (s acmeStorage) putCertificate(ctx context.Context, ca, name string, c *acmeCertificate) error {
	return s.Store(ctx, nameKey("certificates", ca, name, ".pem"), c.pem)
}

// attempt is what is known of the orders for a name that failed.
type attempt struct {
	Settings string    `json:"settings"` // digest of those with which it failed
	Failures int       `json:"failures"`
	Next     time.Time `json:"next"`
	Asked    bool      `json:"asked,omitempty"` // the authority asked for it
	Err      string    `json:"err"`
}

// attempt is the zero attempt when none is known.
func (s acmeStorage) attempt(ctx context.Context, ca, name string) (last attempt) {
	if data, err := s.Load(ctx, nameKey("attempts", ca, name, ".json")); err == nil {
		_ = json.Unmarshal(data, &last)
	}
	return last
}

func (s acmeStorage) putAttempt(ctx context.Context, ca, name string, last attempt) error {
	data, err := json.Marshal(last)
	if err != nil {
		return err
	}
	return s.Store(ctx, nameKey("attempts", ca, name, ".json"), data)
}

// forget forgets the failures.
func (s acmeStorage) forget(ctx context.Context, ca, name string) {
	_ = s.Delete(ctx, nameKey("attempts", ca, name, ".json")) // what is left ends by itself
}

// hold is how long an authority is to be left alone.
func (s acmeStorage) hold(ctx context.Context, ca string) time.Duration {
	var until time.Time
	if data, err := s.Load(ctx, "holds/"+caKey(ca)+".json"); err != nil || json.Unmarshal(data, &until) != nil {
		return 0
	}
	return time.Until(until)
}

func (s acmeStorage) putHold(ctx context.Context, ca string, until time.Time) error {
	data, err := json.Marshal(until)
	if err != nil {
		return err
	}
	return s.Store(ctx, "holds/"+caKey(ca)+".json", data)
}

// lock waits until no other node that shares the storage orders for name.
func (s acmeStorage) lock(ctx context.Context, ca, name string) (unlock func(), err error) {
	return s.lockKey(ctx, nameKey("order", ca, name, ""))
}

func (s acmeStorage) lockKey(ctx context.Context, key string) (unlock func(), err error) {
	key = strings.ReplaceAll(key, "/", "_")
	if err := s.Lock(ctx, key); err != nil {
		return nil, err
	}
	return func() { _ = s.Unlock(context.WithoutCancel(ctx), key) }, nil // one that is left over ends by itself
}

// storedAccount is an account as it is kept.
type storedAccount struct {
	acme.Account
	Key string `json:"key"` // PEM
}

func accountKey(settings *ACMESettings) string {
	id := "default"
	if settings.EABKeyID != "" {
		id = digest(settings.EABKeyID)
	}
	return "accounts/" + caKey(settings.Directory) + "/" + id + ".json"
}

func (s acmeStorage) account(ctx context.Context, key string) (acme.Account, error) {
	data, err := s.Load(ctx, key)
	if err != nil {
		return acme.Account{}, err
	}
	var stored storedAccount
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(&stored); err != nil {
		return acme.Account{}, fmt.Errorf("read %s: %w", key, err)
	}
	stored.PrivateKey, err = certmagic.PEMDecodePrivateKey([]byte(stored.Key))
	if err != nil {
		return acme.Account{}, fmt.Errorf("read %s: %w", key, err)
	}
	return stored.Account, nil
}

func (s acmeStorage) putAccount(ctx context.Context, key string, account acme.Account) error {
	text, err := certmagic.PEMEncodePrivateKey(crypto.PrivateKey(account.PrivateKey))
	if err != nil {
		return err
	}
	account.ExternalAccountBinding = nil // it was for once
	data, err := json.Marshal(storedAccount{account, string(text)})
	if err != nil {
		return err
	}
	return s.Store(ctx, key, data)
}
