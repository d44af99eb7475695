package config

import (
	"fmt"
	"net"
	gopath "path"
	"slices"
	"strconv"
	"strings"
)

// checkRoutes looks at the routes of a site, at path.
func (c *Config) checkRoutes(r *report, path string, s *Site) {
	for i := range s.Routes {
		route := &s.Routes[i]
		at := fmt.Sprintf("%s[%d]", path, i)
		checkRoutePath(r, at+".path", route.Path)
		checkMethodsOnce(r, at+".methods", route.Methods)
		if route.Origin != nil && isWild(route.Origin.Host) {
			r.value(at+".origin", "write one host", "the origin of a route cannot be a wildcard")
		}
		c.checkStay(r, at, route)
		if route.Rewrite != nil {
			checkRewrite(r, at+".rewrite", route.Rewrite)
		}
		checkCaching(r, at+".cache", s, route.Cache)
		checkReached(r, path, s.Routes, i)
	}
}

func checkRoutePath(r *report, at, path string) {
	if !r.good(at) || path == "" {
		return
	}
	if f := pathFault(path); f != nil {
		r.value(at, f.mend, "%s", f.msg)
	}
}

// pathFault is what is wrong with a path that requests are compared with.
func pathFault(path string) *fault {
	switch star := strings.IndexByte(path, '*'); {
	case !strings.HasPrefix(path, "/"):
		return &fault{strconv.Quote(path) + " does not begin with /", "write /" + strings.TrimPrefix(path, "./")}
	case star >= 0 && star < len(path)-1:
		return &fault{"a * can only be the last character of a path", "keep one * at the end, such as " + path[:star+1]}
	case strings.ContainsAny(path, "?#"):
		return &fault{"a path has no query or fragment", "write the path alone"}
	case strings.Contains(path, "//") || strings.Contains(path, "/./") || strings.Contains(path, "/../") || strings.Contains(path, ";"):
		return &fault{"requests are compared without empty segments, dot segments and ;parameters, so that none would match", "write " + plainPath(path)}
	}
	return nil
}

func checkMethodsOnce(r *report, at string, methods []string) {
	for i, method := range methods {
		if method != "" && slices.Contains(methods[:i], method) {
			r.value(fmt.Sprintf("%s[%d]", at, i), "keep one of them", "%s is written twice", method)
		}
	}
	if methods != nil && len(methods) == 0 && r.good(at) {
		r.value(at, "name the methods, or leave methods out for all", "a route for no method does nothing")
	}
}

// checkStay refuses a route that does nothing, and a stay that would leave.
func (c *Config) checkStay(r *report, at string, route *Route) {
	if !r.good(at+".origin") || !r.good(at+".stay") {
		return
	}
	switch {
	case route.Origin == nil && route.Stay == "" && route.Rewrite == nil && route.Cache == nil:
		r.value(at, "add origin: http://10.0.1.5:3000, or take the route out", "a route without origin, stay, rewrite and cache does nothing")
	case route.Stay == "":
	case route.Origin == nil:
		r.value(at+".stay", "add origin: http://10.0.1.5:3000, a server in China", "stay: cn needs an origin in this route")
	default:
		if route.Cache != nil && !route.Cache.Off && r.good(at+".cache") {
			r.value(at+".cache", "take it out", "what stays is never kept")
		}
		c.checkStayOrigin(r, at, route)
		c.checkStayEdge(r, at+".stay")
	}
}

// checkStayOrigin refuses an origin that other requests cross the border for.
func (c *Config) checkStayOrigin(r *report, at string, route *Route) {
	for i, s := range c.Sites {
		for _, h := range s.Hosts {
			to := h.To.Host
			abroad := to != "" && (to == route.Origin.Host || inside(route.Origin.Host, to))
			for _, address := range h.Connect {
				dialled, _, _ := net.SplitHostPort(address)
				abroad = abroad || dialled == route.Origin.Host
			}
			if abroad {
				r.value(at+".origin", "write a server in China", "%s is an overseas origin host (%s), so the request would leave China",
					route.Origin.Host, hostPath(fmt.Sprintf("sites[%d].hosts", i), h.written))
				return
			}
		}
	}
}

// checkStayEdge refuses stay: cn in a file without an edge in China.
func (c *Config) checkStayEdge(r *report, at string) {
	for i, n := range c.Nodes {
		if n.Role == RoleBoth || n.IsEdge() && n.Region == "cn" || !r.good(nodePath(i)+".role") || !r.good(nodePath(i)+".region") {
			return
		}
	}
	if r.good("nodes") {
		r.value(at, "add region: cn to the edge that stands in China", "stay: cn needs an edge of region cn, and there is none")
	}
}

// checkReached refuses a route whose every request an earlier one takes.
func checkReached(r *report, path string, routes []Route, i int) {
	later := &routes[i]
	at := fmt.Sprintf("%s[%d]", path, i)
	if later.Path == "" || !r.good(at+".path") || !r.good(at+".methods") {
		return
	}
	for j := range routes[:i] {
		earlier := &routes[j]
		if earlier.Path != "" && earlier.takesPath(later.Path) && earlier.takesMethods(later.Methods) && r.good(fmt.Sprintf("%s[%d].path", path, j)) {
			r.value(at, "put it before that one, or take it out", "routes[%d] (%s) takes every request of this route first", j, earlier.Path)
			return
		}
	}
}

// takesPath says whether the route matches every path that the other path,
// perhaps a prefix with *, matches.
func (route *Route) takesPath(other string) bool {
	prefix, open := strings.CutSuffix(route.Path, "*")
	if !open {
		return other == route.Path
	}
	return strings.HasPrefix(strings.TrimSuffix(other, "*"), prefix)
}

// takesMethods says whether the route matches every one of the methods; none
// stands for all.
func (route *Route) takesMethods(others []string) bool {
	if len(route.Methods) == 0 {
		return true
	}
	for _, method := range others {
		if !route.takesMethod(method) {
			return false
		}
	}
	return len(others) > 0
}

// takesMethod says whether the route is for the method. GET includes HEAD.
func (route *Route) takesMethod(method string) bool {
	return len(route.Methods) == 0 || slices.Contains(route.Methods, method) ||
		method == "HEAD" && slices.Contains(route.Methods, "GET")
}

// Route is the rule for a request: the first in the order of the file that
// matches, or nil. path is the decoded URL path (http.Request.URL.Path). It is
// compared as an origin may understand it, not only as it is written: without
// empty and dot segments (RFC 3986 section 5.2.4; nginx does the same) and
// without segment parameters (";v=1", section 3.3), so that no spelling leads
// round a route that stays.
func (s *Site) Route(method, path string) *Route {
	if len(s.Routes) == 0 {
		return nil
	}
	path = plainPath(path)
	for i := range s.Routes {
		route := &s.Routes[i]
		if pathMatches(route.Path, path) && route.takesMethod(method) {
			return route
		}
	}
	return nil
}

// pathMatches says whether a path of the file, perhaps a prefix with *, takes
// in a plain path.
func pathMatches(written, path string) bool {
	prefix, open := strings.CutSuffix(written, "*")
	return path == prefix || open && strings.HasPrefix(path, prefix)
}

// plainPath is path without empty segments, dot segments and segment
// parameters. A final slash stays.
func plainPath(path string) string {
	if !strings.Contains(path, "//") && !strings.Contains(path, "/.") && !strings.Contains(path, ";") {
		return path
	}
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		segments[i], _, _ = strings.Cut(segment, ";")
	}
	last := segments[len(segments)-1]
	plain := gopath.Clean("/" + strings.Join(segments, "/"))
	if plain != "/" && (last == "" || last == "." || last == "..") {
		plain += "/"
	}
	return plain
}
