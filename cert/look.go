package cert

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"time"

	"causeway/keypair"
)

// Look is the state of a site's certificate as its files are, whoever serves
// them. What it says of itself is there as far as it can be read, also by one who
// may not read the key.
func Look(site string, files keypair.Files, want keypair.Want, now time.Time) State {
	var state State
	c, problems := keypair.Read(files)
	if c != nil {
		state = StateOf(c.Leaf)
		problems = append(problems, keypair.Judge(c, files.Cert, want, now)...)
	} else if data, problem := keypair.Content(keypair.Cert, files.Cert, ""); problem == nil && !keypair.IsPKCS12(files.Cert) {
		if all, problem := keypair.Certificates(keypair.Cert, files.Cert, data, ""); problem == nil {
			state = StateOf(keypair.LeafOf(all))
		}
	}
	state.Site, state.Source, state.Where = site, SourceFile, files.Cert
	if at := slices.IndexFunc(problems, func(p *keypair.Problem) bool { return p.Level < keypair.Warning }); at >= 0 {
		state.Err = problems[at].Error()
	}
	return state
}

// LookACME is the state of a name whose certificate is ordered at the directory of
// a CA, as the folder dir has it, whoever serves it.
func LookACME(ctx context.Context, dir, site, name, directory string) State {
	state := State{Names: []string{name}}
	stored, err := acmeStorage{FileStorage(dir)}.certificate(ctx, directory, normalName(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		state.Err = "there is no certificate for " + name + " yet: a running node orders it"
	case err != nil:
		state.Err = err.Error()
	default:
		state = StateOf(stored.Leaf)
	}
	if why, _, failed := ACMEFailure(ctx, dir, name, directory); failed {
		state.Err = why
	}
	state.Site, state.Source, state.Where = site, SourceACME, directory
	return state
}

// ACMEFailure is why the last order for a name failed, and when the next is, as
// the folder dir has it; false when the last did not fail.
func ACMEFailure(ctx context.Context, dir, name, directory string) (why string, next time.Time, failed bool) {
	last := acmeStorage{FileStorage(dir)}.attempt(ctx, directory, normalName(name))
	return last.Err, last.Next, last.Failures > 0
}

// ACMEOverdue says of the certificate of a name, as the folder dir has it, when it
// ends, and whether it ought to have been renewed: it has ended, or a fifth of its
// life is left and one of keypair.Mark is reached.
func ACMEOverdue(ctx context.Context, dir, name, directory string, now time.Time) (ends time.Time, overdue bool) {
	stored, err := acmeStorage{FileStorage(dir)}.certificate(ctx, directory, normalName(name))
	if err != nil {
		return time.Time{}, false
	}
	ends = stored.Leaf.NotAfter
	left := ends.Sub(now)
	return ends, left < ends.Sub(stored.Leaf.NotBefore)/5 && keypair.Mark(ends, now) >= 0
}
