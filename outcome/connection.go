package outcome

import (
	"log/slog"
	"strconv"
	"time"
)

// Connection is what is known of one connection that was passed on as it was,
// when it ends. It belongs to the goroutine that serves it until it is emitted;
// sinks only read it.
type Connection struct {
	Start  time.Time
	Node   string // the node that writes it; "" in a file without nodes
	Role   string // "edge"
	Site   string // the site's name; "" when the name asked for is not ours
	ID     string // as a request's; the far end of the connection is told it
	Client string // the client's address, without port
	Host   string // the name asked for; "" when the client did not say one
	Relay  string // the relay that took it; "" when none did
	In     int64  // bytes that the client sent
	Out    int64  // bytes that it was sent
	End    string // how it ended, a word of a fixed table: a label
	Err    error  // the cause, for the log alone
	Failed bool   // it ended by a fault that is not the client's

	Opened time.Duration // since Start: the other side was there; 0 when it never was
	Total  time.Duration
}

// ConnectionSink takes finished connections. EmitConnection must not keep c.
type ConnectionSink interface{ EmitConnection(c *Connection) }

// EmitConnection hands c to every sink that takes connections.
func (s Sinks) EmitConnection(c *Connection) {
	for _, sink := range s {
		if of, ok := sink.(ConnectionSink); ok {
			of.EmitConnection(c)
		}
	}
}

// level is the level of the connection's line.
func (c *Connection) level() slog.Level {
	if c.Failed {
		return slog.LevelError
	}
	return slog.LevelInfo
}

// EmitConnection writes c's line, with msg "connection": time, level, msg, node,
// role, site, id, client, host, in, out, relay, ms (opened, total), end, and err
// when there is one.
func (l *AccessLog) EmitConnection(c *Connection) {
	l.write(func(b []byte) []byte { return appendConnection(b, c) })
}

func appendConnection(b []byte, c *Connection) []byte {
	b = appendHead(b, c.Start, c.level(), "connection", c.Node)
	b = appendString(b, "role", c.Role)
	b = appendString(b, "site", c.Site)
	b = appendString(b, "id", c.ID)
	b = appendString(b, "client", c.Client)
	b = appendString(b, "host", c.Host)
	b = appendInt(b, "in", c.In)
	b = appendInt(b, "out", c.Out)
	if c.Relay != "" {
		b = appendString(b, "relay", c.Relay)
	}
	b = append(b, `,"ms":{"opened":`...)
	b = appendMilliseconds(b, c.Opened)
	b = append(b, `,"total":`...)
	b = appendMilliseconds(b, c.Total)
	b = append(b, '}')
	b = appendString(b, "end", c.End)
	if c.Err != nil {
		b = appendString(b, "err", c.Err.Error())
	}
	return append(b, '}', '\n')
}

// EmitConnection counts c.
func (m *Metrics) EmitConnection(c *Connection) {
	m.connections.WithLabelValues(c.Role, c.Site, c.End, strconv.FormatBool(c.Failed)).Inc()
	m.connectionBytes.WithLabelValues(c.Role, c.Site, "in").Add(float64(c.In))
	m.connectionBytes.WithLabelValues(c.Role, c.Site, "out").Add(float64(c.Out))
}
