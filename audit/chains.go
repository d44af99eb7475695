package audit

// Chains → each certificate of a site → lacking (does it lead to a root?) → fetch
// (the one that signed the last, where that says it is) → and so on, up to one
// that a root signed.

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"causeway/config"
	"causeway/keypair"
)

const (
	kindChain = "missing_intermediate"

	mostLacking   = 4        // certificates between a leaf and a root that may be missing
	issuerBytes   = 64 << 10 // of one that is fetched
	issuerTimeout = 10 * time.Second
)

// Chains looks for what is missing between the certificates that node shows and
// roots, the system's when nil: it asks for it where the certificates say it is
// (authority information access, RFC 5280 section 4.2.2.1), as some browsers do and
// others do not. In service nothing is asked for. It says nothing of a private
// authority's, whose certificates name no such place.
func Chains(ctx context.Context, cfg *config.Config, node *config.Node, roots *x509.CertPool) []Finding {
	var findings []Finding
	client := &http.Client{Timeout: issuerTimeout, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}}
	known := map[string]*lack{} // by the last of a chain: what many have in common is asked for once
	for _, site := range cfg.Sites {
		if !site.EndsTLS(node) {
			continue
		}
		for _, files := range site.TLS.Files() {
			c, _ := keypair.Read(files.Pair())
			if c == nil {
				continue // check says why
			}
			chain := keypair.Chain(c)
			last := chain[len(chain)-1]
			found, ok := known[string(last.Raw)]
			if !ok {
				found = lacking(ctx, client, last, roots)
				known[string(last.Raw)] = found
			}
			if found == nil {
				continue
			}
			findings = append(findings, Finding{Level: Warning, Host: site.Hosts[0].Public.String(), Kind: kindChain,
				Msg: files.Cert + ": " + found.msg, Mend: strings.ReplaceAll(found.mend, "FILE", files.Cert)})
		}
	}
	return findings
}

// lack is what is missing of a chain.
type lack struct{ msg, mend string }

// lacking finds what is missing between the last certificate of a chain and a
// root; nil where nothing is, or where the certificate does not say whom to ask.
func lacking(ctx context.Context, client *http.Client, last *x509.Certificate, roots *x509.CertPool) *lack {
	options := x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, Intermediates: x509.NewCertPool()}
	leads := func() bool {
		_, err := last.Verify(options)
		unknown := x509.UnknownAuthorityError{}
		return err == nil || !errors.As(err, &unknown)
	}
	var names, from []string
	for of := last; !leads(); {
		if len(of.IssuingCertificateURL) == 0 || bytes.Equal(of.RawIssuer, of.RawSubject) || len(names) == mostLacking {
			return nil // a private authority's, of which check warns
		}
		at := of.IssuingCertificateURL[0]
		issuer, err := fetch(ctx, client, at)
		if err == nil {
			err = of.CheckSignatureFrom(issuer)
		}
		if err != nil {
			return &lack{fmt.Sprintf("an intermediate certificate is missing, that of %s, and could not be had from %s: %v", keypair.Issuer(of), at, err), "put it into FILE, behind the others"}
		}
		options.Intermediates.AddCert(issuer)
		names, from = append(names, keypair.Issuer(of)), append(from, "curl -s '"+strings.ReplaceAll(at, "'", "%27")+"' | openssl x509 -inform der >>FILE")
		of = issuer
	}
	if len(names) == 0 {
		return nil
	}
	return &lack{fmt.Sprintf("an intermediate certificate is missing, that of %s: clients that do not look for it themselves refuse the site", strings.Join(names, " and of ")),
		"put it behind the others: " + strings.Join(from, "; ")}
}

// fetch gets a certificate, in DER as RFC 5280 has it or in PEM as some have it.
func fetch(ctx context.Context, client *http.Client, from string) (*x509.Certificate, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %s", res.Status)
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, issuerBytes))
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(data); block != nil {
		data = block.Bytes
	}
	return x509.ParseCertificate(data)
}
