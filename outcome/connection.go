package outcome

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Connection is what is known of one connection that was passed on as it was,
// of a forward or of a site that passes through, when it ends. It
// belongs to the goroutine that serves the connection until it is emitted;
// sinks only read it.
type Connection struct {
	Start   time.Time
	Node    string         // the node that writes the record; "" in a file without nodes
	Forward string         // its name; "" when the name asked for is none of ours, and of a site
	Passed  bool           // it came to a listener of sites, and not of forwards
	Site    string         // likewise the name of a site that passes through
	ID      string         // names the connection; also sent in a PROXY header of version 2
	Client  netip.AddrPort // who made it: what a trusted PROXY header says, or the peer
	Peer    netip.AddrPort // who sent that header; zero when there was none
	Local   netip.AddrPort // what the client reached
	Name    string         // the name asked for (SNI); "" where none is looked at
	Target  string         // as in the file; "" when it never came to one
	Address netip.AddrPort // of the target, that was dialled last
	Tries   int            // targets that were dialled
	Relay   string         // of a site: the relay that took it; "" when none did
	In, Out int64          // bytes from the client and to it
	End     End
	Err     error // the cause, for the log alone

	// The legs, each from Start: 0 when the connection never came that far.
	Hello time.Duration // it was known what the client wants
	Dial  time.Duration // a target was connected, or a relay took it
	Total time.Duration // both sides were closed
}

// End is how a forwarded connection ended. Its text is a metric label and a word
// of the log. Beside those here there are the reasons why a connection is not
// understood (conn.Reason).
type End string

// The ends.
const (
	EndDone         End = "done"          // both sides ended what they sent
	EndIdle         End = "idle"          // no byte for idle_timeout
	EndHalfClosed   End = "half_closed"   // one side had ended, and no byte for half_close_timeout
	EndResetClient  End = "reset_client"  // the client reset it
	EndResetTarget  End = "reset_target"  // the target reset it
	EndFailedClient End = "failed_client" // the connection to the client failed in another way
	EndFailedTarget End = "failed_target" // the connection to the target failed in another way
	EndStopped      End = "stopped"       // the node stopped, and drain_timeout was over

	EndLimit       End = "limit"        // limits.connections
	EndLimitClient End = "limit_client" // limits.connections_per_client
	EndDenied      End = "denied"       // allow does not list the client
	EndNoName      End = "name_missing" // the client asked for no name, and sni needs one
	EndUnknownName End = "name_unknown" // the client asked for a name that is not in sni
	EndDialFailed  End = "dial_failed"  // no target could be reached
	EndNoPorts     End = "no_ports"     // this machine has no port left for a connection to any target
	EndNoFiles     End = "no_files"     // this process may have no more descriptors
	EndBadProxy    End = "proxy_unsaid" // the client's addresses cannot be put into a PROXY header

	EndLinkDown End = End(LinkDown) // no relay could be reached
	EndLinkSlow End = End(LinkSlow) // no relay took it in time
	EndLinkCut  End = End(LinkCut)  // the link broke while the connection was on it
)

// level is the level of the end's line: what the operator must mend is an error.
func (e End) level() slog.Level {
	switch e {
	case EndDialFailed, EndNoPorts, EndNoFiles, EndBadProxy, EndLinkDown, EndLinkSlow, EndLinkCut:
		return slog.LevelError
	case EndLimit:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// ConnectionSink takes finished records of connections. EmitConnection must not
// keep rec.
type ConnectionSink interface{ EmitConnection(rec *Connection) }

// Meter is a sink that counts the bytes of connections while they move. Of rec
// Moving looks at whose connection it is alone; what it gives may be called by
// several at the same time.
type Meter interface {
	Moving(rec *Connection) func(in, out int64)
}

// Moving tells every sink that is a Meter; nil when none is.
func (s Sinks) Moving(rec *Connection) func(in, out int64) {
	var all []func(in, out int64)
	for _, sink := range s {
		if meter, ok := sink.(Meter); ok {
			all = append(all, meter.Moving(rec))
		}
	}
	switch len(all) {
	case 0:
		return nil
	case 1:
		return all[0]
	}
	return func(in, out int64) {
		for _, moving := range all {
			moving(in, out)
		}
	}
}

// EmitConnection hands rec to every sink that takes connections.
func (s Sinks) EmitConnection(rec *Connection) {
	for _, sink := range s {
		if sink, ok := sink.(ConnectionSink); ok {
			sink.EmitConnection(rec)
		}
	}
}

// EmitConnection writes rec's line: time, level, msg ("connection"), node, role,
// forward or site, id, client, client_port, peer, local, name, target, address
// and tries or relay, in, out, ms (an object: hello, dial, total), end, and err
// when something failed.
func (l *AccessLog) EmitConnection(rec *Connection) {
	l.write(func(b []byte) []byte { return appendConnection(b, rec) })
}

func appendConnection(b []byte, rec *Connection) []byte {
	b = appendHead(b, rec.Start, rec.End.level(), "connection", rec.Node)
	b = append(b, `,"role":"edge"`...)
	if rec.Passed {
		b = appendString(b, "site", rec.Site)
	} else {
		b = appendString(b, "forward", rec.Forward)
	}
	b = appendString(b, "id", rec.ID)
	b = append(b, `,"client":"`...)
	b = rec.Client.Addr().AppendTo(b)
	b = append(b, '"')
	b = appendInt(b, "client_port", int64(rec.Client.Port()))
	b = appendAddress(b, "peer", rec.Peer)
	b = appendAddress(b, "local", rec.Local)
	if rec.Name != "" {
		b = appendString(b, "name", rec.Name)
	}
	if rec.Target != "" {
		b = appendString(b, "target", rec.Target)
		b = appendAddress(b, "address", rec.Address)
	}
	if !rec.Passed {
		b = appendInt(b, "tries", int64(rec.Tries))
	}
	if rec.Relay != "" {
		b = appendString(b, "relay", rec.Relay)
	}
	b = appendInt(b, "in", rec.In)
	b = appendInt(b, "out", rec.Out)
	b = append(b, `,"ms":{"hello":`...)
	b = appendMilliseconds(b, rec.Hello)
	b = append(b, `,"dial":`...)
	b = appendMilliseconds(b, rec.Dial)
	b = append(b, `,"total":`...)
	b = appendMilliseconds(b, rec.Total)
	b = append(b, '}')
	b = appendString(b, "end", string(rec.End))
	if rec.Err != nil {
		b = appendString(b, "err", rec.Err.Error())
	}
	return append(b, '}', '\n')
}

// appendAddress appends a member that is an address and a port; nothing when
// there is none.
func appendAddress(b []byte, name string, addr netip.AddrPort) []byte {
	if !addr.IsValid() {
		return b
	}
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, '"', ':', '"')
	b = addr.AppendTo(b)
	return append(b, '"')
}

// Moving counts bytes of rec's connection as they move.
func (m *Metrics) Moving(rec *Connection) func(in, out int64) {
	bytes, whose := m.forwarded, rec.Forward
	if rec.Passed {
		bytes, whose = m.passedBytes, rec.Site
	}
	fromClients, toClients := bytes.WithLabelValues(whose, "in"), bytes.WithLabelValues(whose, "out")
	return func(in, out int64) {
		if in > 0 {
			fromClients.Add(float64(in))
		}
		if out > 0 {
			toClients.Add(float64(out))
		}
	}
}

// EmitConnection counts rec; its bytes Moving has counted.
func (m *Metrics) EmitConnection(rec *Connection) {
	if rec.Passed {
		m.passed.WithLabelValues(rec.Site, string(rec.End)).Inc()
		return
	}
	m.connections.WithLabelValues(rec.Forward, string(rec.End)).Inc()
	if rec.Dial > 0 {
		m.dialled.WithLabelValues(rec.Forward).Observe((rec.Dial - rec.Hello).Seconds())
	}
}

// Forwarded is what was counted of a forward.
type Forwarded struct {
	Ends    map[End]uint64 // connections that ended or were refused, by how
	In, Out uint64         // bytes from clients and to them, as they move
}

// Forwarded is what was counted of each forward, by name. That of "" are the
// connections that never came to one, as their listener has several.
func (m *Metrics) Forwarded() map[string]Forwarded {
	all := make(map[string]Forwarded)
	each(m.connections, func(labels map[string]string, n uint64) {
		of := all[labels["forward"]]
		if of.Ends == nil {
			of.Ends = make(map[End]uint64)
		}
		of.Ends[End(labels["end"])] = n
		all[labels["forward"]] = of
	})
	each(m.forwarded, func(labels map[string]string, n uint64) {
		of := all[labels["forward"]]
		if labels["direction"] == "in" {
			of.In = n
		} else {
			of.Out = n
		}
		all[labels["forward"]] = of
	})
	return all
}

// each tells every counter of vec.
func each(vec *prometheus.CounterVec, tell func(labels map[string]string, n uint64)) {
	collected := make(chan prometheus.Metric)
	go func() { vec.Collect(collected); close(collected) }() // ends with the loop
	for metric := range collected {
		var is dto.Metric
		if metric.Write(&is) != nil {
			continue // never, of a counter
		}
		labels := make(map[string]string)
		for _, label := range is.GetLabel() {
			labels[label.GetName()] = label.GetValue()
		}
		tell(labels, uint64(is.GetCounter().GetValue()))
	}
}

// interface checks
var (
	_ ConnectionSink = (*AccessLog)(nil)
	_ ConnectionSink = (*Metrics)(nil)
	_ ConnectionSink = Sinks(nil)
	_ Meter          = (*Metrics)(nil)
	_ Meter          = Sinks(nil)
)
