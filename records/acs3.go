package records

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// The signature of Alibaba Cloud's APIs, version 3, as documented in "Request
// syntax and signature method V3"
// (help/en/sdk/product-overview/v3-request-structure-and-signature).

const acs3Algorithm = "ACS3-HMAC-SHA256"

// newNonce is what makes each request another.
func newNonce() string {
	var bytes [16]byte
	_, _ = rand.Read(bytes[:]) // never fails: crypto/rand
	return hex.EncodeToString(bytes[:])
}

// signACS3 signs a request without a body, with the headers it has and those of
// the time and the nonce.
func signACS3(r *http.Request, keyID, secret, nonce string, now time.Time) {
	r.Header.Set("x-acs-date", now.UTC().Format("2006-01-02T15:04:05Z"))
	r.Header.Set("x-acs-signature-nonce", nonce)
	payload := hexSHA256("")
	r.Header.Set("x-acs-content-sha256", payload)

	names, headers := []string{"host"}, map[string]string{"host": r.URL.Host}
	for name, values := range r.Header {
		if name = strings.ToLower(name); strings.HasPrefix(name, "x-acs-") || name == "content-type" {
			names = append(names, name)
			headers[name] = strings.TrimSpace(values[0])
		}
	}
	slices.Sort(names)
	var canonical strings.Builder
	canonical.WriteString(r.Method + "\n/\n" + r.URL.RawQuery + "\n")
	for _, name := range names {
		canonical.WriteString(name + ":" + headers[name] + "\n")
	}
	signed := strings.Join(names, ";")
	canonical.WriteString("\n" + signed + "\n" + payload)

	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(acs3Algorithm + "\n" + hexSHA256(canonical.String())))
	r.Header.Set("Authorization", acs3Algorithm+" Credential="+keyID+
		",SignedHeaders="+signed+",Signature="+hex.EncodeToString(mac.Sum(nil)))
}

func hexSHA256(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// acs3Query is the canonical query: sorted by name, percent-encoded as RFC 3986
// has it.
func acs3Query(parameters url.Values) string {
	// url.Values sorts, and encodes all but the space as wanted.
	return strings.ReplaceAll(parameters.Encode(), "+", "%20")
}
