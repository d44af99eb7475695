package forward

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"causeway/config"
	"causeway/nft"
)

// Forwards with entry kernel have no listener here: their pools follow names and
// check addresses as those of the others do, and
//
//  1. kernel.run looks at the pools every kernelLook,
//  2. when other addresses are well than were, it has nft replace the rules, and
//     cut the flows of those that have died,
//  3. every kernelRead it looks whether somebody took the rules away.
//
// The rules stay when the node stops, and when it crashes: the next start adopts
// them. They go with the last forward of the file, or by `causeway down`.

const (
	// kernelLook is the part that looking adds to the time until a dead target
	// gets no connection any more.
	kernelLook = 100 * time.Millisecond
	// kernelRead is how often the rules are read, to be put back.
	kernelRead = 5 * time.Second
	// kernelPatience is how long the first look-up of names may take before the
	// rules of before are replaced.
	kernelPatience = 5 * time.Second
	// kernelShares is what a weight of 1 is of nft's, to be divided among the
	// addresses of a name.
	kernelShares = 60
)

// kernelOf is a forward with the targets that at gives.
func kernelOf(f *config.Forward, targets []nft.Target) (nft.Forward, error) {
	made := nft.Forward{
		Name: f.Name, Protocols: f.Protocols, Allow: f.AllowList(), Targets: targets,
		Balance: nft.Weighted, Masquerade: f.Masquerade,
	}
	if f.Allow != nil && len(f.Allow) == 0 { // nobody: to nft an empty list is everybody
		made.Targets = nil
	}
	if f.Balance == config.BalanceHash {
		made.Balance = nft.Hash
	}
	for _, span := range f.Spans() {
		r := nft.Range{From: uint16(span.Low), To: uint16(span.High)}
		if span.Host != "" {
			addr, err := netip.ParseAddr(span.Host)
			if err != nil {
				return made, fmt.Errorf("forward %s: listen on %s: the kernel takes addresses alone: %w", f.Name, span.Host, err)
			}
			if addr != netip.IPv6Unspecified() { // which is both families, as for a socket
				r.Addr = addr
			}
		}
		made.Listen = append(made.Listen, r)
	}
	return made, nil
}

// kernelTargets are the addresses of the pool, those that are not well with a
// weight of 0; all as they are when none is well. dead are those that their
// checks found dead.
func (p *pool) kernelTargets() (targets []nft.Target, dead map[netip.AddrPort]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	none := !slices.ContainsFunc(p.all, func(at *endpoint) bool { return at.share > 0 && at.well(now) })
	dead = make(map[netip.AddrPort]bool)
	for _, at := range p.all {
		addr := netip.AddrPortFrom(at.addr, uint16(at.port))
		dead[addr] = at.down
		weight := int(math.Round(at.share * kernelShares))
		if at.share > 0 {
			weight = max(weight, 1)
		}
		if !none && !at.well(now) {
			weight = 0
		}
		targets = append(targets, nft.Target{Addr: addr, Weight: weight})
	}
	slices.SortFunc(targets, func(a, b nft.Target) int { return a.Addr.Compare(b.Addr) })
	return targets, dead
}

// known says whether all names of the pool were looked up once.
func (p *pool) known() bool {
	select {
	case <-p.ready:
		return true
	default:
		return false
	}
}

// kernel is what the kernel was told. Its goroutine has it alone.
type kernel struct {
	server *Server
	told   map[string]nft.Forward
	text   string // of told
	begun  time.Time
	read   time.Time // when the rules were last read
	failed string    // what was logged last
}

// kernelServices are those of the kernel, by name.
func (s *Server) kernelServices() []*service {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*service
	for _, made := range s.services {
		if made.file.Entry == config.ForwardKernel {
			all = append(all, made)
		}
	}
	slices.SortFunc(all, func(a, b *service) int { return strings.Compare(a.file.Name, b.file.Name) })
	return all
}

// run keeps the kernel as the pools are, until ctx ends.
func (k *kernel) run(ctx context.Context) {
	k.begun = time.Now()
	ticker := time.NewTicker(kernelLook)
	defer ticker.Stop()
	for {
		k.look()
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// look tells the kernel what is new.
func (k *kernel) look() {
	services := k.server.kernelServices()
	if len(services) == 0 {
		if len(k.told) > 0 && k.said(nft.Remove()) {
			k.told, k.text = nil, ""
			k.server.options.Log.Info("the kernel forwards no more")
		}
		return
	}
	now := time.Now()
	wants, dead := make(map[string]nft.Forward), make(map[string]map[netip.AddrPort]bool)
	var list []nft.Forward
	for _, s := range services {
		if !s.pool.known() && now.Sub(k.begun) < kernelPatience {
			return
		}
		targets, died := s.pool.kernelTargets()
		f, err := kernelOf(s.file, targets)
		if err != nil {
			k.said(err)
			return
		}
		wants[f.Name], dead[f.Name], list = f, died, append(list, f)
	}
	text := fmt.Sprintf("%+v", list)
	if now.Sub(k.read) > kernelRead {
		k.read = now
		if _, err := nft.Counters(); errors.Is(err, fs.ErrNotExist) && k.text != "" {
			k.server.options.Log.Warn("somebody took the kernel's rules away: they are put back")
			k.text = ""
		}
	}
	if text == k.text {
		return
	}
	if !k.said(nft.Apply(list)) {
		k.read = now // and tries again with the next look
		return
	}
	before := k.told
	k.told, k.text = wants, text
	k.server.options.Log.Info("the kernel forwards", "forwards", len(list), "targets", describe(list))
	if before == nil {
		for _, lack := range nft.Lacks(list) {
			k.server.options.Log.Warn("this machine may not forward", "why", lack)
		}
	}
	for name, old := range before {
		for _, target := range old.Targets {
			if target.Weight > 0 && dead[name][target.Addr] {
				k.cut(old, target.Addr)
			}
		}
	}
}

// cut ends the flows of a target that died, so that their clients find another.
func (k *kernel) cut(f nft.Forward, addr netip.AddrPort) {
	n, err := nft.Cut(f, addr)
	if err != nil {
		k.server.options.Log.Warn("flows of a dead target are left", "forward", f.Name, "target", addr.String(), "err", err)
	} else if n > 0 {
		k.server.options.Log.Info("flows of a dead target are ended", "forward", f.Name, "target", addr.String(), "flows", n)
	}
}

// said logs a failure, once as long as it stays the same, and reports whether
// there was none.
func (k *kernel) said(err error) bool {
	if err == nil {
		k.failed = ""
		return true
	}
	if err.Error() != k.failed {
		k.failed = err.Error()
		k.server.options.Log.Error("the kernel's rules stay as they were", "err", err)
	}
	return false
}

// describe says, for the log, how many targets are well.
func describe(list []nft.Forward) string {
	well, all := 0, 0
	for _, f := range list {
		for _, target := range f.Targets {
			all++
			if target.Weight > 0 {
				well++
			}
		}
	}
	return fmt.Sprintf("%d of %d are well", well, all)
}

// warnOfLeft tells of rules that a node has left whose file had forwards of the kernel: this
// one's has none. They may be another node's of this machine.
func (s *Server) warnOfLeft() {
	if _, err := nft.Counters(); err == nil {
		s.options.Log.Warn("the kernel forwards by rules that are not of this file (table inet causeway), without health checks; unless another node of this machine has them, `causeway down` takes them away")
	}
}

// mayProgram says what stands in the way of the kernel's forwards.
func mayProgram(forwards []*config.Forward) error {
	for _, f := range forwards {
		if f.Entry != config.ForwardKernel {
			continue
		}
		if _, err := kernelOf(f, nil); err != nil {
			return err
		}
		if _, err := nft.Counters(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forward %s: entry kernel: %w", f.Name, err)
		}
		return nil
	}
	return nil
}

// Kernel is what the kernel would be told of forwards if all their targets were
// well. Names are looked up now.
func Kernel(ctx context.Context, forwards []*config.Forward, lookUp func(context.Context, string) ([]netip.Addr, error)) ([]nft.Forward, error) {
	var list []nft.Forward
	for _, f := range forwards {
		if f.Entry != config.ForwardKernel {
			continue
		}
		var targets []nft.Target
		for _, target := range f.Targets {
			host, port := target.Split()
			addrs := []netip.Addr{}
			if addr, err := netip.ParseAddr(host); err == nil {
				addrs = append(addrs, addr)
			} else if addrs, err = lookUp(ctx, host); err != nil {
				return nil, fmt.Errorf("forward %s: target %s: %w", f.Name, target.To, err)
			}
			for _, addr := range addrs {
				targets = append(targets, nft.Target{Addr: netip.AddrPortFrom(addr.Unmap(), uint16(port)), Weight: max(1, target.Weight*kernelShares/len(addrs))})
			}
		}
		made, err := kernelOf(f, targets)
		if err != nil {
			return nil, err
		}
		list = append(list, made)
	}
	return list, nil
}
