// Package forward passes connections on as they are, to targets, without a
// relay: what the file calls forwards.
//
// A few loops have all connections, each one thread that never waits for one of them
// (loop.go). The path of a connection:
//
//  1. ear.take has it from its socket, within limits.connections,
//  2. flow.arrive hears from a trusted load balancer who the client is,
//  3. flow.hear reads, where forwards have sni, the TLS hello, and passing.heard
//     finds the forward; without, the listener has one forward,
//  4. passing.admit holds the client against allow and the limits,
//  5. passing.another asks the pool for a target that is well (pool.go), flow.next
//     dials it; when that fails, another, within one limits.dial_timeout,
//  6. a conn.Pair sends the PROXY header and moves the bytes both ways,
//  7. records hands the record of the connection out, once.
//
// A forward with entry kernel has no connections here: the kernel passes them on
// as it is told (kernel.go).
//
// Beside that each forward follows the names of its targets (pool.go) and checks
// their addresses (health.go).
//
// It refuses to end TLS, to guess where a client without a name belongs, and to
// let in whom an empty list does not name.
package forward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"causeway/config"
	"causeway/nft"
	"causeway/outcome"
	"causeway/resolve"
)

// Options say what a Server is made of.
type Options struct {
	Node     string                 // of the records
	Sink     outcome.ConnectionSink // where the records go; an outcome.Meter is told of bytes as they move
	Log      *slog.Logger
	Failed   func(error)       // is told of a listener that broke
	Resolver *resolve.Resolver // nil: one of its own
}

// Server does the forwards of a node.
type Server struct {
	options Options
	names   *resolve.Resolver
	meter   outcome.Meter   // nil when the sink is none
	base    context.Context // ends when what is left is cut
	cut     context.CancelFunc
	tasks   sync.WaitGroup // loops and pools; Stop waits for them
	loops   *loops         // have the connections
	lines   *lineWriter    // writes the log

	mu        sync.Mutex // guards the rest: one change at a time
	listeners map[string]*listener
	services  map[string]*service // by the name of the forward
	tallies   map[string]*tally   // of every forward there ever was
	pools     map[*pool]bool      // those of services, and others with dials under way
	stopped   bool
	begun     bool               // a file was taken
	kernel    context.CancelFunc // ends the goroutine that programs it; nil before there is one
}

// New makes a Server without forwards. Stop ends it.
func New(options Options) *Server {
	s := &Server{
		options: options, names: options.Resolver,
		listeners: make(map[string]*listener), services: make(map[string]*service), tallies: make(map[string]*tally), pools: make(map[*pool]bool),
	}
	s.meter, _ = options.Sink.(outcome.Meter)
	if s.names == nil {
		s.names = resolve.New()
	}
	s.base, s.cut = context.WithCancel(context.Background())
	s.lines = newLineWriter(options.Log)
	s.options.Log = s.lines.logger()
	s.loops = newLoops(s)
	return s
}

// Change is other forwards for a Server: made, with all sockets open, and not
// served yet. Apply or Drop ends it.
type Change struct {
	server   *Server
	services map[string]*service
	tables   map[string]*table
	sockets  map[string]*entrance // those that were not open before
}

// Prepare makes what can fail. Nothing changes.
func (s *Server) Prepare(forwards []*config.Forward) (*Change, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, errors.New("the forwards are stopped")
	}
	if err := mayProgram(forwards); err != nil {
		return nil, err
	}
	c := &Change{server: s, services: make(map[string]*service), sockets: make(map[string]*entrance)}
	for _, f := range forwards {
		made, err := s.service(f)
		if err != nil {
			return nil, err
		}
		c.services[f.Name] = made
	}
	c.tables = tablesOf(forwards, c.services)
	for address := range c.tables {
		if s.listeners[address] != nil {
			continue
		}
		socket, err := s.loops.listen(address)
		if err != nil {
			c.closeSockets()
			return nil, fmt.Errorf("listen for forward %s: %w", c.tables[address].names(), err)
		}
		c.sockets[address] = socket
	}
	return c, nil
}

func (c *Change) closeSockets() {
	for _, socket := range c.sockets {
		socket.close()
	}
}

// Drop gives the change up.
func (c *Change) Drop() { c.closeSockets() }

// Apply serves the new forwards in place of the old. Connections under way go
// on, those of forwards that are no more too, until they end; what changed holds
// for new ones.
func (c *Change) Apply() {
	s := c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		c.closeSockets()
		return
	}
	for name, old := range s.services {
		if c.services[name] != old {
			old.pool.stop()
		}
	}
	maps.DeleteFunc(s.pools, func(p *pool, _ bool) bool { return p.base.Err() != nil && p.dialing.Load() == 0 })
	for name, made := range c.services {
		if s.services[name] != made {
			made.pool.run(&s.tasks)
			s.pools[made.pool] = true
		}
		s.tallies[name] = made.tally
	}
	s.services = c.services
	var gone []*listener
	for address, l := range s.listeners {
		if t := c.tables[address]; t != nil {
			l.table.Store(t)
		} else {
			l.socket.close()
			gone = append(gone, l)
			delete(s.listeners, address)
		}
	}
	for _, l := range gone { // its address is free when this returns
		<-l.socket.closed
	}
	if s.kernel == nil && slices.ContainsFunc(slices.Collect(maps.Values(c.services)), func(made *service) bool { return made.file.Entry == config.ForwardKernel }) {
		ctx, stop := context.WithCancel(context.Background())
		s.kernel = stop
		s.tasks.Go(func() { (&kernel{server: s}).run(ctx) })
	} else if s.kernel == nil && !s.begun {
		s.tasks.Go(s.warnOfLeft)
	}
	s.begun = true
	for address, socket := range c.sockets {
		l := &listener{server: s, address: address, socket: socket}
		l.table.Store(c.tables[address])
		s.listeners[address] = l
		socket.serve(l)
	}
}

// Stop takes no more connections, lets those under way end until ctx does, and
// cuts the rest.
func (s *Server) Stop(ctx context.Context) {
	s.mu.Lock()
	s.stopped = true
	for _, l := range s.listeners {
		l.socket.close()
	}
	if s.kernel != nil {
		s.kernel()
	}
	for _, made := range s.services {
		made.pool.stop()
	}
	s.mu.Unlock()
	s.loops.stop()
	ended := make(chan struct{})
	go func() { s.tasks.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	s.cut()
	s.mu.Lock()
	for p := range s.pools {
		p.kill()
	}
	s.mu.Unlock()
	s.loops.cut()
	<-ended
	s.loops.records.close()
	s.lines.close()
	if s.options.Resolver == nil {
		s.names.Close()
	}
}

// State is how a forward does now.
type State struct {
	Forward string
	File    *config.Forward
	Open    int64 // connections
	Targets []TargetState
	Totals  []TargetTotals
	Kernel  *nft.Counter // what the kernel counted; nil for a forward that is not its own
}

// TargetTotals are what a target of the file came to since the node began, all
// its addresses together.
type TargetTotals struct {
	Target                                       string
	Dials, DialErrors, Checks, Failed, Ejections int64
}

// TargetState is how one address of a target does.
type TargetState struct {
	Target, Address string // Address is "" for a name that has none
	State           TargetWord
	Since           time.Time // it is in this state; zero for a name without an address
	Why             string    // what failed last, when it is not up
	Share           float64   // of new connections, by the weights
	Open            int64     // connections
	Checked         time.Time // when a check last ended; zero before that
	Result          string    // what it said; "" when it was well
	Kernel          *nft.Counter

	at netip.AddrPort // as the kernel is told
}

// TargetWord is the state of a target.
type TargetWord string

// The states. StateUnresolved is that of a name without an address.
const (
	StateUp         TargetWord = "up"
	StateWarming    TargetWord = "warming" // up, in slow_start
	StateDown       TargetWord = "down"    // its checks fail
	StateEjected    TargetWord = "ejected" // connections failed
	StateUnresolved TargetWord = "unresolved"
)

// TargetWords are all of them.
var TargetWords = []TargetWord{StateUp, StateWarming, StateDown, StateEjected, StateUnresolved}

// State is that of every forward, by name.
func (s *Server) State() []State {
	var counted map[string]nft.Counter
	if len(s.kernelServices()) > 0 {
		counted, _ = nft.Counters() // none when somebody took them away, as will be logged
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []State
	for name, made := range s.services {
		state := State{
			Forward: name, File: made.file, Open: made.tally.open.Load(),
			Targets: made.pool.state(), Totals: made.tally.totals(made.file),
		}
		if counter, ok := counted[name]; ok {
			state.Kernel = &counter
			for i := range state.Targets {
				if of, ok := counter.Targets[state.Targets[i].at]; ok {
					state.Targets[i].Kernel = &of
				}
			}
		}
		all = append(all, state)
	}
	slices.SortFunc(all, func(a, b State) int { return cmp.Compare(a.Forward, b.Forward) })
	return all
}
