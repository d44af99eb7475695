package cert

// PrepareInstall → what was given is read, its chain put in order, and judged →
// what must change; Write → each file whole beside its place → the old ones kept
// → all into their places, or none.

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"causeway/keypair"
)

// Install is a certificate that is to be put in the place of a site's.
type Install struct {
	// From are the files as they came. Without a Key, it is in Cert, or it is the
	// one that lies in its place already.
	From keypair.Files

	Chain string        // a PEM file of intermediate certificates, "" for none
	To    keypair.Files // where they go
	Want  keypair.Want  // Roots nil for those of the system
}

// Installation is a certificate that may be served, and what Write will do.
type Installation struct {
	New *tls.Certificate
	Old *tls.Certificate // nil where there is none, or none that is whole

	Place string // the file of the certificate

	// Warnings are what some clients or the owner may not like.
	Warnings []error

	// Mended is what was done to the chain, for people.
	Mended []string

	files []*placed
}

// placed is a file that Write puts in its place.
type placed struct {
	path string // of the file itself, where the file of the site is a link to it
	data []byte
	mode fs.FileMode
	temp string
	old  fs.FileInfo // nil where there was none
}

// backupSuffix is put behind the name of a file that was replaced.
const backupSuffix = ".bak"

// PrepareInstall looks at what was given and says what is wrong with it, all at
// once (each a *keypair.Problem): files that can't be read, a key of another
// certificate, names that are missing, dates, weak keys. It writes nothing.
func PrepareInstall(in Install, now time.Time) (*Installation, error) {
	from, err := in.given()
	if err != nil {
		return nil, err
	}
	c, problems := keypair.Read(from)
	if c == nil {
		return nil, allOf(problems)
	}
	i := &Installation{New: c, Place: in.To.Cert}
	i.Old, _ = keypair.Read(in.To)
	if err := i.complete(from.Cert, in.Chain); err != nil {
		return nil, err
	}
	want := in.Want
	if want.Roots == nil {
		want.Roots = systemRoots()
	}
	problems = append(problems, keypair.Judge(c, from.Cert, want, now)...)
	if refused := slices.DeleteFunc(slices.Clone(problems), func(p *keypair.Problem) bool { return p.Level == keypair.Warning }); len(refused) > 0 {
		return nil, allOf(refused)
	}
	for _, p := range problems {
		i.Warnings = append(i.Warnings, p)
	}
	if i.Old != nil && i.Old.Leaf.NotAfter.After(c.Leaf.NotAfter) {
		i.Warnings = append(i.Warnings, fmt.Errorf("%s ends on %s, before the one in its place, which ends on %s",
			from.Cert, c.Leaf.NotAfter.UTC().Format(time.DateOnly), i.Old.Leaf.NotAfter.UTC().Format(time.DateOnly)))
	}
	if err := i.plan(from, in.To); err != nil {
		return nil, err
	}
	return i, nil
}

func allOf(problems []*keypair.Problem) error {
	var errs []error
	for _, p := range problems {
		errs = append(errs, p)
	}
	return errors.Join(errs...)
}

// systemRoots are those that this machine trusts, nil where it has none.
func systemRoots() *x509.CertPool {
	roots, err := x509.SystemCertPool()
	if err != nil || roots.Equal(x509.NewCertPool()) {
		return nil
	}
	return roots
}

// given is From, with the key found where none was named.
func (in *Install) given() (keypair.Files, error) {
	from := in.From
	if from.Key != "" {
		return from, nil
	}
	data, problem := keypair.Content(keypair.Cert, from.Cert, "name the file that the provider gave")
	if problem != nil {
		return from, problem
	}
	if keypair.HoldsKey(from.Cert, data) {
		return from, nil
	}
	switch {
	case in.To.Key == "":
		return from, &keypair.Problem{Part: keypair.Key, What: from.Cert + " has no key in it", Mend: "give the key with which it was asked for: --key FILE"}
	case !exists(in.To.Key):
		return from, &keypair.Problem{Part: keypair.Key, What: in.To.Key + " does not exist, and no key was given", Mend: "give the key with which the certificate was asked for: --key FILE"}
	}
	from.Key = in.To.Key
	if from.Secret == "" {
		from.Secret = in.To.Secret
	}
	return from, nil
}

// complete makes the chain whole with what else lies in the file of the
// certificate, in that of the chain, and in its place, and notes what it did.
func (i *Installation) complete(certFile, chainFile string) error {
	var came []*x509.Certificate
	if data, problem := keypair.Content(keypair.Cert, certFile, ""); problem == nil {
		came, _ = keypair.Certificates(keypair.Cert, certFile, data, "") // a PKCS#12 has none
	}
	if len(came) == 0 {
		came = keypair.Chain(i.New)
	}
	if chainFile != "" {
		data, problem := keypair.Content(keypair.Cert, chainFile, "")
		if problem != nil {
			return problem
		}
		if len(bytes.TrimSpace(data)) == 0 {
			return &keypair.Problem{Part: keypair.Cert, What: chainFile + " is empty", Mend: "get the file again"}
		}
		more, problem := keypair.Certificates(keypair.Cert, chainFile, data, "write the intermediate certificates as PEM: -----BEGIN CERTIFICATE-----")
		if problem != nil {
			return problem
		}
		came = append(came, more...)
	}
	keypair.Extend(i.New, came)
	var kept [][]byte
	for n, c := range came {
		again := slices.ContainsFunc(came[:n], c.Equal)
		switch within := slices.ContainsFunc(i.New.Certificate, func(der []byte) bool { return bytes.Equal(der, c.Raw) }); {
		case again:
		case within:
			kept = append(kept, c.Raw)
		case bytes.Equal(c.RawSubject, c.RawIssuer):
			i.Mended = append(i.Mended, fmt.Sprintf("left out the root %s: clients have it, or do not trust it", name(c)))
		default:
			i.Mended = append(i.Mended, fmt.Sprintf("left out %s: it is no part of the chain", name(c)))
		}
	}
	if !slices.EqualFunc(kept, i.New.Certificate, bytes.Equal) {
		i.Mended = append(i.Mended, "put the chain in order: the certificate, then each one's issuer")
	}
	if i.Old == nil {
		return nil
	}
	had := len(i.New.Certificate)
	keypair.Extend(i.New, keypair.Chain(i.Old)[1:])
	for _, c := range keypair.Chain(i.New)[had:] {
		i.Mended = append(i.Mended, fmt.Sprintf("took %s, which is missing, from the chain that is in its place", name(c)))
	}
	return nil
}

// name is a certificate's own, for people.
func name(c *x509.Certificate) string {
	if c.Subject.CommonName != "" {
		return fmt.Sprintf("%q", c.Subject.CommonName)
	}
	return fmt.Sprintf("%q", c.Subject)
}

// plan finds out which files must change.
func (i *Installation) plan(from, to keypair.Files) error {
	var secret []byte
	if to.Secret != "" {
		read, problem := keypair.ReadSecret(to.Secret)
		if problem != nil {
			return problem
		}
		secret = read
		defer clear(secret)
	}
	if keypair.IsPKCS12(to.Cert) {
		if i.Old != nil && sameChain(i.Old, i.New) {
			return nil
		}
		data, err := keypair.EncodePKCS12(i.New, secret)
		if err != nil {
			return err
		}
		return i.place(to.Cert, data, keyMode)
	}
	chain := keypair.EncodeChain(i.New)
	key, err := keypair.EncodeKey(i.New.PrivateKey, secret)
	switch {
	case err != nil:
		return err
	case to.Key == "" || sameFile(to.Key, to.Cert):
		return i.place(to.Cert, append(chain, key...), keyMode)
	}
	if !sameFile(from.Key, to.Key) && !(i.Old != nil && sameKey(i.Old, i.New)) {
		if err := i.place(to.Key, key, keyMode); err != nil {
			return err
		}
	}
	return i.place(to.Cert, chain, certMode)
}

// place has a file written, if it is not so already.
func (i *Installation) place(path string, data []byte, mode fs.FileMode) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	old, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		old = nil
	case err != nil:
		return err
	case !old.Mode().IsRegular():
		return fmt.Errorf("%s is no file", path)
	default:
		if is, err := os.ReadFile(path); err == nil && bytes.Equal(is, data) {
			return nil
		}
		mode |= old.Mode().Perm() & 0o040 // a group that may read it goes on reading it
	}
	i.files = append(i.files, &placed{path: path, data: data, mode: mode, old: old})
	return nil
}

func sameFile(a, b string) bool {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return filepath.Clean(a) == filepath.Clean(b) || errA == nil && errB == nil && os.SameFile(infoA, infoB)
}

func sameChain(a, b *tls.Certificate) bool {
	return slices.EqualFunc(a.Certificate, b.Certificate, bytes.Equal)
}

func sameKey(a, b *tls.Certificate) bool {
	key, ok := a.Leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(b.Leaf.PublicKey)
}

// Replaced is a file that is written, and where what it was is kept.
type Replaced struct {
	File   string `json:"file"`
	Backup string `json:"backup,omitempty"` // "" where there was none
}

// Files are those that Write writes; none when all is in its place already.
func (i *Installation) Files() []Replaced {
	files := []Replaced{}
	for _, f := range i.files {
		of := Replaced{File: f.path}
		if f.old != nil {
			of.Backup = f.path + backupSuffix
		}
		files = append(files, of)
	}
	return files
}

// Write puts the files in their places: each whole, all or none, with the owner
// and group of those before, which it keeps with .bak behind their names. A key
// is for its owner alone, and for the group if that could read the one before. A
// crash between the two files of a pair leaves a key that is not the certificate's,
// which a running node does not take; Write mends that when it is called again.
func (i *Installation) Write() (err error) {
	defer func() {
		for _, f := range i.files {
			if f.temp != "" {
				err = errors.Join(err, os.Remove(f.temp))
			}
		}
	}()
	for _, f := range i.files {
		if err := f.prepare(); err != nil {
			return fmt.Errorf("write %s: %w", f.path, err)
		}
	}
	for _, f := range i.files {
		if err := f.keepOld(); err != nil {
			return fmt.Errorf("keep %s: %w", f.path, err)
		}
	}
	for n, f := range i.files {
		if err := os.Rename(f.temp, f.path); err != nil {
			for _, before := range i.files[:n] {
				err = errors.Join(err, before.putBack())
			}
			return fmt.Errorf("write %s: %w", f.path, err)
		}
		f.temp = ""
	}
	for _, f := range i.files {
		if err := syncDir(filepath.Dir(f.path)); err != nil {
			return fmt.Errorf("write %s: %w", f.path, err)
		}
	}
	return nil
}

// prepare writes the file beside its place.
func (f *placed) prepare() (err error) {
	dir := filepath.Dir(f.path)
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return err
	}
	if f.temp, err = writeTemp(f.path, f.data, f.mode); err != nil || f.old == nil {
		return err
	}
	return keepOwner(f.temp, f.old)
}

// keepOwner gives file the owner and group of old: whoever could read the one
// must be able to read the other.
func keepOwner(file string, old fs.FileInfo) error {
	was, ok := old.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	if info, err := os.Stat(file); err != nil {
		return err
	} else if is, ok := info.Sys().(*syscall.Stat_t); ok && is.Uid == was.Uid && is.Gid == was.Gid {
		return nil
	}
	if err := os.Chown(file, int(was.Uid), int(was.Gid)); err != nil {
		return fmt.Errorf("keep the owner of the file, user %d and group %d: do it as that user, or as root: %w", was.Uid, was.Gid, err)
	}
	return nil
}

// keepOld gives the file in its place a second name, with .bak behind it.
func (f *placed) keepOld() error {
	if f.old == nil {
		return nil
	}
	return linkOver(f.path, f.path+backupSuffix, f.old)
}

// putBack undoes a rename.
func (f *placed) putBack() error {
	if f.old == nil {
		return os.Remove(f.path)
	}
	return linkOver(f.path+backupSuffix, f.path, f.old)
}

// linkOver gives the file from the name to as well, in the place of what has it.
func linkOver(from, to string, info fs.FileInfo) error {
	temp := to + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(from, temp); err != nil { // a file system without hard links
		data, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if temp, err = writeTemp(to, data, info.Mode().Perm()); err != nil {
			return err
		}
		if err := keepOwner(temp, info); err != nil {
			return errors.Join(err, os.Remove(temp))
		}
	}
	if err := os.Rename(temp, to); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}

// syncDir has a rename outlive a loss of power.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		err = nil // a file system that can't
	}
	return errors.Join(err, d.Close())
}

// Choose finds the pair of a site that a certificate is to replace: the only one,
// the one whose certificate is at as, a path or the end of one, or the one with a key of the same kind
// as that of the certificate in the file; else the only one that is not there yet.
func Choose(pairs []keypair.Files, as, certFile string) (keypair.Files, error) {
	var paths []string
	for _, pair := range pairs {
		if as != "" && named(pair.Cert, as) || as == "" && len(pairs) == 1 {
			return pair, nil
		}
		paths = append(paths, pair.Cert)
	}
	if as != "" {
		return keypair.Files{}, fmt.Errorf("%s is no certificate of the site: it has %s", as, strings.Join(paths, ", "))
	}
	kind := kindOf(certFile)
	for _, fits := range []func(keypair.Files) bool{
		func(pair keypair.Files) bool { return kind != "" && kindOf(pair.Cert) == kind },
		func(pair keypair.Files) bool { return !exists(pair.Cert) },
	} {
		found := slices.DeleteFunc(slices.Clone(pairs), func(pair keypair.Files) bool { return !fits(pair) })
		if len(found) == 1 {
			return found[0], nil
		}
	}
	return keypair.Files{}, fmt.Errorf("the site has several certificates: say in whose place this one goes with --replace, one of %s", strings.Join(paths, ", "))
}

// named reports whether as is path, or the end of it as the file of the site has
// it.
func named(path, as string) bool {
	as = filepath.Clean(as)
	return path == as || strings.HasSuffix(path, string(filepath.Separator)+as)
}

// kindOf is the algorithm of the key of a certificate in PEM, "" where that can't
// be had.
func kindOf(certFile string) string {
	data, problem := keypair.Content(keypair.Cert, certFile, "")
	if problem != nil {
		return ""
	}
	all, problem := keypair.Certificates(keypair.Cert, certFile, data, "")
	if problem != nil {
		return ""
	}
	return keypair.LeafOf(all).PublicKeyAlgorithm.String()
}
