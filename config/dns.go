package config

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// DNS is who serves the public hosts' domains, and how records are set there.
// Which members there are depends on the provider.
type DNS struct {
	// `alidns`: Alibaba Cloud DNS. `route53`: Amazon Route 53. `rfc2136`: a server
	// of your own that takes dynamic updates signed with a key, such as BIND or
	// Knot. `hook`: a program of yours.
	Provider DNSProvider `yaml:"provider" enum:"alidns|route53|rfc2136|hook" example:"alidns"`

	// alidns, route53: the id of the access key. Left out with route53, the
	// usual places are looked at: the environment, `~/.aws`, the role of the
	// machine.
	AccessKeyID string `yaml:"access_key_id,omitempty" example:"LTAI5tExample"`

	// alidns, route53: the file with the secret of the access key, alone.
	AccessKeySecret string `yaml:"access_key_secret,omitempty" kind:"path" example:"alidns.secret"`

	// route53: the region of the API. Left out, that of the environment or
	// `us-east-1`; in China `cn-northwest-1`.
	Region string `yaml:"region,omitempty" example:"cn-northwest-1"`

	// alidns, route53: the API, in place of the vendor's usual one.
	Endpoint string `yaml:"endpoint,omitempty" kind:"endpoint" example:"https://alidns.ap-southeast-1.aliyuncs.com"`

	// rfc2136: the primary server of the zone, its port by default 53.
	Server string `yaml:"server,omitempty" kind:"dnsserver" example:"10.0.1.53"`

	// rfc2136: the name of the key (TSIG).
	Key string `yaml:"key,omitempty" example:"causeway"`

	// rfc2136: the file with the secret of the key in base64, alone.
	Secret string `yaml:"secret,omitempty" kind:"path" example:"tsig.secret"`

	// rfc2136: the algorithm of the key.
	Algorithm string `yaml:"algorithm,omitempty" enum:"hmac-sha256|hmac-sha512" default:"hmac-sha256"`

	// hook: the program and its first arguments. It is called with `present` or
	// `cleanup`, the absolute name with a dot at its end and the value of the TXT
	// record, and has nothing of the service's environment but PATH and HOME.
	// A path with a `/` is relative to the file.
	Command []string `yaml:"command,omitempty" example:"[./dns-hook.sh]"`

	// The zone, where it can't be found by the name: its name, or with route53
	// the id of the hosted zone, where two have the same name.
	Zone string `yaml:"zone,omitempty" example:"example.cn"`

	// DNS servers that are asked whether a record is there yet. Left out, those
	// of the system.
	Resolvers []string `yaml:"resolvers,omitempty" kind:"dnsserver" example:"[\"223.5.5.5\"]"`

	// How long setting or removing a record may take.
	Timeout time.Duration `yaml:"timeout,omitempty" default:"2m" min:"1s" max:"1h"`
}

// DNSProvider is who serves a domain.
type DNSProvider string

// The values of DNSProvider.
const (
	DNSAlidns  DNSProvider = "alidns"
	DNSRoute53 DNSProvider = "route53"
	DNSRFC2136 DNSProvider = "rfc2136"
	DNSHook    DNSProvider = "hook"
)

// dnsMembers are the members of each provider, those it can't do without first.
var dnsMembers = map[DNSProvider]struct{ must, may []string }{
	DNSAlidns:  {[]string{"access_key_id", "access_key_secret"}, []string{"endpoint", "zone"}},
	DNSRoute53: {nil, []string{"access_key_id", "access_key_secret", "region", "endpoint", "zone"}},
	DNSRFC2136: {[]string{"server", "key", "secret"}, []string{"algorithm", "zone"}},
	DNSHook:    {[]string{"command"}, nil},
}

// dnsExample is how a member is written in a mend.
var dnsExample = map[string]string{
	"access_key_id": "LTAI5tExample", "access_key_secret": "alidns.secret", "server": "10.0.1.53", "key": "causeway",
	"secret": "tsig.secret", "command": "[./dns-hook.sh]",
}

// checkDNS fits the members at path, a `dns`, to its provider.
func checkDNS(r *report, path string, d *DNS) {
	if d == nil || !r.good(path) || !r.good(path+".provider") || d.Provider == "" {
		return
	}
	members := dnsMembers[d.Provider]
	known := append(append([]string{"provider", "resolvers", "timeout"}, members.must...), members.may...)
	for _, key := range []string{"access_key_id", "access_key_secret", "region", "endpoint", "server", "key", "secret", "algorithm", "command", "zone"} {
		_, written := r.places[path+"."+key]
		switch {
		case written && !slices.Contains(known, key):
			r.key(path+"."+key, "take it out; known here: "+strings.Join(known, ", "), "%s has no %s", d.Provider, key)
		case !written && slices.Contains(members.must, key):
			r.key(path, fmt.Sprintf("add %s: %s", key, dnsExample[key]), "%s needs the key %q", d.Provider, key)
		}
	}
	if d.Provider == DNSRoute53 && r.good(path+".access_key_id") && r.good(path+".access_key_secret") &&
		(d.AccessKeyID == "") != (d.AccessKeySecret == "") {
		r.key(path, "write both, or neither for the credentials of the machine", "access_key_id and access_key_secret go together")
	}
	if name := strings.TrimSuffix(d.Zone, "."); d.Provider != DNSRoute53 && d.Zone != "" && r.good(path+".zone") {
		if _, fault := parseHost(name); fault != nil {
			r.value(path+".zone", "write the name of the zone, such as example.cn", "%q is not a domain name", d.Zone)
		}
	}
	if d.Provider == DNSHook && r.good(path+".command") {
		d.checkCommand(r, path+".command")
	}
}

// checkCommand makes the program's path absolute.
func (d *DNS) checkCommand(r *report, path string) {
	if len(d.Command) == 0 {
		if _, written := r.places[path]; written {
			r.value(path, "write the program and its arguments: [./dns-hook.sh]", "there is no program")
		}
		return
	}
	switch program := d.Command[0]; {
	case program == "":
		r.value(path+"[0]", "write the program, such as ./dns-hook.sh", "the program has no name")
	case strings.Contains(program, "/") && !filepath.IsAbs(program):
		if absolute, err := filepath.Abs(filepath.Join(filepath.Dir(r.file), program)); err == nil {
			d.Command[0] = absolute
		}
	}
}

// dns looks at the files of a `dns` at path.
func (f *filesCheck) dns(path string, d *DNS) {
	if d == nil {
		return
	}
	for _, of := range []struct{ key, file string }{{"access_key_secret", d.AccessKeySecret}, {"secret", d.Secret}} {
		if of.file == "" {
			continue
		}
		data, ok := f.read(path+"."+of.key, of.file, "")
		secret := strings.TrimSpace(string(data))
		switch {
		case !ok:
		case secret == "":
			f.value(path+"."+of.key, "write the secret into it", "%s is empty", of.file)
		case strings.ContainsAny(secret, "\r\n"):
			f.value(path+"."+of.key, "write the secret alone into it", "%s has more than one line", of.file)
		case of.key == "secret" && !isBase64(secret):
			f.value(path+"."+of.key, "write the secret of the key alone, as tsig-keygen prints it between the quotes", "what %s holds is not base64", of.file)
		}
	}
	if d.Provider == DNSHook && len(d.Command) > 0 && strings.Contains(d.Command[0], "/") {
		info, err := os.Stat(d.Command[0])
		switch {
		case err != nil:
			f.value(path+".command[0]", "put the program there, or change the path", "%s does not exist", d.Command[0])
		case info.IsDir() || info.Mode().Perm()&0o111 == 0:
			f.value(path+".command[0]", "chmod +x it", "%s is not a program", d.Command[0])
		}
	}
}

func isBase64(s string) bool {
	_, err := base64.StdEncoding.DecodeString(s)
	return err == nil
}

// parseEndpoint reads the address of an API: https, or http on this machine.
func parseEndpoint(s string) (string, *fault) {
	u, err := url.Parse(s)
	wrong := &fault{strconv.Quote(s) + " is not the address of an API", "write https:// and a host"}
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return "", wrong
	}
	address := net.ParseIP(u.Hostname())
	if u.Scheme != "https" && (u.Scheme != "http" || address == nil || !address.IsLoopback()) {
		return "", wrong
	}
	return strings.TrimSuffix(s, "/"), nil
}

// parseDNSServer reads the address of a DNS server, and adds its port.
func parseDNSServer(s string) (string, *fault) {
	address, wrong := parseConnect(s)
	if wrong != nil {
		return "", &fault{strconv.Quote(s) + " is not the address of a server", "write host or host:port, such as 10.0.1.53"}
	}
	if !hasPort(address) {
		address = net.JoinHostPort(address, "53")
	}
	return address, nil
}
