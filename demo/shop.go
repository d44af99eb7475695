package demo

// NewShop builds the routes; below them the handlers stand in the order of
// doc.go's path: pages, login, API, live things, files; then send, through which
// every page and every file leaves.

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// The hosts of the shop, as bases.
const (
	shopHome   = "https://example.com"
	shopLogin  = "https://login.example.com"
	shopAPI    = "https://api.example.com"
	shopStatic = "https://static.example.com"
	shopDomain = "example.com"
)

const (
	maxForm     = 64 << 10         // bytes of a form or of JSON
	maxHarvest  = 100 << 10        // MB of a download
	streamLife  = 10 * time.Minute // of a WebSocket or an event stream
	streamPause = time.Second      // between two messages
	minGzip     = 512              // bytes below which gzip is not worth its header
)

// built is when what never changes was made: Last-Modified of downloads.
var built = time.Date(2026, 4, 5, 0, 0, 0, 0, time.UTC)

//go:embed shop
var shopFiles embed.FS

// tea is one product.
type tea struct {
	Slug, Name, Chinese, Kind, Place, Water, Text string
	Price                                         int // US dollars a tin of 50 g
}

var teas = []tea{
	{"longjing", "Longjing", "龙井", "Green", "Zhejiang", "80 °C, 2 minutes", "Pan-fired flat by hand beside West Lake. Chestnut, fresh peas and a long sweet finish.", 24},
	{"biluochun", "Biluochun", "碧螺春", "Green", "Zhejiang", "75 °C, 2 minutes", "Tiny curls grown under plum and apricot trees, and tasting a little of both.", 26},
	{"maofeng", "Huangshan Maofeng", "黄山毛峰", "Green", "Anhui", "80 °C, 2 minutes", "Silver tips from the mist line of the Yellow Mountain: orchid and cold spring water.", 22},
	{"tieguanyin", "Tieguanyin", "铁观音", "Oolong", "Fujian", "95 °C, 1 minute", "Tightly rolled, floral and buttery; seven infusions and still something to say.", 19},
	{"dahongpao", "Da Hong Pao", "大红袍", "Oolong", "Fujian", "100 °C, 30 seconds", "Rock tea from the Wuyi cliffs, roasted over charcoal. Cocoa, stone, dark fruit.", 38},
	{"dancong", "Honey Orchid Dancong", "蜜兰香单丛", "Oolong", "Fujian", "95 °C, 30 seconds", "From single old bushes; smells of ripe lychee before the water touches it.", 34},
	{"yinzhen", "Silver Needle", "白毫银针", "White", "Fujian", "85 °C, 3 minutes", "Buds alone, withered in the sun and nothing else done to them. Melon and hay.", 29},
	{"baimudan", "White Peony", "白牡丹", "White", "Fujian", "85 °C, 3 minutes", "One bud, two leaves; rounder than the needles, good in a big pot on a slow day.", 17},
	{"keemun", "Keemun", "祁门红茶", "Black", "Anhui", "95 °C, 3 minutes", "Wine, pine smoke and dried rose: the tea of late breakfasts.", 18},
	{"dianhong", "Dianhong Gold", "滇红金芽", "Black", "Yunnan", "95 °C, 3 minutes", "Golden buds from old Yunnan trees. Malt, sweet potato, black pepper.", 21},
	{"shoupuer", "Shou Pu’er", "熟普洱", "Dark", "Yunnan", "100 °C, 20 seconds", "Ripened and pressed in 2016. Deep, smooth, a forest floor after rain.", 27},
	{"jasmine", "Jasmine Pearls", "茉莉龙珠", "Scented", "Fujian", "80 °C, 3 minutes", "Green pearls scented five nights in a row with fresh blossoms.", 23},
}

type place struct{ Slug, Name, Chinese, Text string }

var places = []place{
	{"zhejiang", "Zhejiang", "浙江", "Lakes, low hills and the first green tea of the year."},
	{"fujian", "Fujian", "福建", "Cliffs of red rock, where oolong was invented."},
	{"yunnan", "Yunnan", "云南", "Tea trees older than any house around them."},
	{"anhui", "Anhui", "安徽", "Granite peaks above a sea of clouds."},
}

type shop struct {
	key    []byte // signs sessions; a new shop knows nobody
	pages  *template.Template
	assets map[string]asset // by path, "/shop.css"
	poured atomic.Int64     // cups, over all WebSockets
}

// kinds are the media types of the shop's files, by extension.
var kinds = map[string]string{
	".css": "text/css; charset=utf-8",
	".js":  "text/javascript; charset=utf-8",
	".svg": "image/svg+xml",
	".png": "image/png",
}

// asset is a file with its answer worked out.
type asset struct {
	kind         string
	body, zipped []byte // zipped nil when it would not be smaller
	tag          string // of body, without quotes
}

// NewShop is the origin of the demo: the tea shop of https://example.com,
// https://login.example.com, https://api.example.com and
// https://static.example.com, told apart by the Host header. It speaks as if it
// were reached over HTTPS whatever carries it, and remembers no visitor: each
// new shop has a new key for its session cookies.
func NewShop() http.Handler {
	s := &shop{key: make([]byte, 32), assets: make(map[string]asset)}
	rand.Read(s.key) // never fails (crypto/rand)
	s.pages = template.Must(template.ParseFS(shopFiles, "shop/pages/*.html"))
	s.loadAssets()

	mux := http.NewServeMux()
	for pattern, serve := range map[string]http.HandlerFunc{
		"GET example.com/{$}":             s.home,
		"GET example.com/tea/{slug}":      s.tea,
		"GET example.com/cart":            s.cart,
		"POST example.com/cart":           s.addToCart,
		"GET example.com/account":         s.account,
		"POST example.com/logout":         s.logout,
		"GET example.com/sitemap.xml":     s.siteMap,
		"GET example.com/live":            s.live,
		"GET example.com/events":          s.events,
		"GET example.com/download/{file}": s.download,
		"POST example.com/upload":         s.upload,
		"PUT example.com/upload":          s.upload,
		"example.com/":                    s.notFound,

		"GET login.example.com/{$}":  s.loginForm,
		"POST login.example.com/{$}": s.login,
		"login.example.com/":         s.notFound,

		"GET api.example.com/v1/products":        s.apiProducts,
		"GET api.example.com/v1/products/{slug}": s.apiProduct,
		"GET api.example.com/v1/me":              s.apiMe,
		"POST api.example.com/v1/echo":           s.apiEcho,
		"GET api.example.com/v1/share":           s.apiShare,
		"OPTIONS api.example.com/":               s.apiPreflight,
		"api.example.com/":                       s.apiNotFound,

		"static.example.com/": s.static,
	} {
		mux.HandleFunc(pattern, serve)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "no such host here: "+r.Host, http.StatusMisdirectedRequest)
	})
	return mux
}

func (s *shop) loadAssets() {
	err := fs.WalkDir(shopFiles, "shop/static", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := shopFiles.ReadFile(name)
		if err != nil {
			return err
		}
		a := asset{kind: kinds[path.Ext(name)], body: body, tag: tagOf(body)}
		if textLike(a.kind) {
			a.zipped = zip(body)
		}
		s.assets[strings.TrimPrefix(name, "shop/static")] = a
		return nil
	})
	if err != nil {
		panic("read the shop's own files: " + err.Error()) // they are part of the binary
	}
}

// page is what the templates see.
type page struct {
	Title, Path string
	User        string // "" when not signed in
	InCart      int    // tins
	Teas        []tea
	Tea         tea
	Places      []place
	Lines       []line
	Total       int
	Return      template.URL // percent-encoded
	Problem     string
	Data        template.JS // JSON with every / escaped
}

// line is one row of the cart.
type line struct {
	tea
	Quantity, Sum int
}

func (s *shop) render(w http.ResponseWriter, r *http.Request, status int, name string, p page) {
	p.User = s.user(r)
	for _, l := range cartLines(r) {
		p.InCart += l.Quantity
	}
	if p.Path == "" {
		p.Path = r.URL.Path
	}
	var body bytes.Buffer
	if err := s.pages.ExecuteTemplate(&body, name+".html", p); err != nil {
		panic(fmt.Errorf("render %s: %w", name, err)) // a fault of the shop's own files
	}
	h := w.Header()
	h.Set("Content-Security-Policy", strings.Join([]string{
		"default-src 'self'",
		"img-src 'self' " + shopStatic + " data:",
		"style-src 'self' " + shopStatic + " 'unsafe-inline'",
		"script-src " + shopStatic,
		"font-src static.example.com",
		"connect-src 'self' " + shopAPI + " wss://example.com",
		"form-action " + shopHome + " " + shopLogin,
		"frame-ancestors 'self'",
		"base-uri 'none'",
	}, "; "))
	h.Set("Cache-Control", "private, no-cache")
	h.Add("Vary", "Cookie")
	send(w, r, status, "text/html; charset=utf-8", body.Bytes())
}

// home says early what the page will need (RFC 8297), then sends it.
func (s *shop) home(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Add("Link", "<"+shopStatic+"/shop.css>; rel=preload; as=style")
	h.Add("Link", "<"+shopStatic+"/shop.js>; rel=preload; as=script")
	if r.ProtoAtLeast(1, 1) {
		w.WriteHeader(http.StatusEarlyHints)
	}
	h.Add("Link", "<"+shopHome+"/>; rel=canonical")
	if _, err := r.Cookie("visit"); err != nil {
		http.SetCookie(w, domainCookie("visit", rand.Text(), false))
	}
	s.render(w, r, http.StatusOK, "home", page{
		Title: "Tea from the hills", Teas: teas, Places: places,
		Data: template.JS(escapedJSON(map[string]any{
			"home": shopHome + "/", "api": shopAPI + "/v1", "live": "wss://example.com/live", "events": shopHome + "/events",
		})),
	})
}

func (s *shop) tea(w http.ResponseWriter, r *http.Request) {
	t, ok := teaOf(r.PathValue("slug"))
	if !ok {
		s.notFound(w, r)
		return
	}
	more := slices.DeleteFunc(slices.Clone(teas), func(other tea) bool { return other.Slug == t.Slug })
	at := slices.IndexFunc(teas, func(other tea) bool { return other.Slug == t.Slug })
	s.render(w, r, http.StatusOK, "tea", page{
		Title: t.Name, Tea: t, Teas: append(more[at:], more[:at]...)[:6],
		Data: template.JS(escapedJSON(map[string]any{
			"@context": "https://schema.org", "@type": "Product", "name": t.Name,
			"url": shopHome + "/tea/" + t.Slug, "image": shopStatic + "/img/" + t.Slug + ".svg",
			"offers": map[string]any{"@type": "Offer", "price": t.Price, "priceCurrency": "USD", "url": shopHome + "/tea/" + t.Slug},
		})),
	})
}

func teaOf(slug string) (tea, bool) {
	for _, t := range teas {
		if t.Slug == slug {
			return t, true
		}
	}
	return tea{}, false
}

func (s *shop) notFound(w http.ResponseWriter, r *http.Request) {
	s.render(w, r, http.StatusNotFound, "message", page{Title: "Not here", Path: "/", Problem: "There is no such page in this shop."})
}

// The cart is a cookie, "longjing:2.keemun:1": what the visitor says it is.

func (s *shop) cart(w http.ResponseWriter, r *http.Request) {
	p := page{Title: "Your cart", Lines: cartLines(r)}
	for _, l := range p.Lines {
		p.Total += l.Sum
	}
	s.render(w, r, http.StatusOK, "cart", p)
}

func (s *shop) addToCart(w http.ResponseWriter, r *http.Request) {
	if !s.formAllowed(w, r) {
		return
	}
	t, ok := teaOf(r.PostForm.Get("tea"))
	quantity, err := strconv.Atoi(r.PostForm.Get("quantity"))
	if !ok || err != nil || quantity < 0 || quantity > 20 {
		s.render(w, r, http.StatusBadRequest, "message", page{Title: "That did not work", Path: "/cart", Problem: "Choose a tea and between 0 and 20 tins."})
		return
	}
	var parts []string
	for _, l := range cartLines(r) {
		if l.Slug != t.Slug {
			parts = append(parts, fmt.Sprintf("%s:%d", l.Slug, l.Quantity))
		}
	}
	if quantity > 0 {
		parts = append(parts, fmt.Sprintf("%s:%d", t.Slug, quantity))
	}
	http.SetCookie(w, &http.Cookie{Name: "cart", Value: strings.Join(parts, "."), Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode})
	redirect(w, shopHome+"/cart")
}

func cartLines(r *http.Request) (lines []line) {
	c, err := r.Cookie("cart")
	if err != nil {
		return nil
	}
	for part := range strings.SplitSeq(c.Value, ".") {
		slug, count, _ := strings.Cut(part, ":")
		t, ok := teaOf(slug)
		quantity, err := strconv.Atoi(count)
		again := slices.ContainsFunc(lines, func(l line) bool { return l.Slug == slug })
		if ok && !again && err == nil && quantity > 0 && quantity <= 20 {
			lines = append(lines, line{t, quantity, quantity * t.Price})
		}
	}
	return lines
}

// formAllowed parses a form that comes from the shop's own pages; it has
// answered when it returns false. A client that sends no Origin is no browser.
func (s *shop) formAllowed(w http.ResponseWriter, r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin != "" && origin != shopHome && origin != shopLogin {
		http.Error(w, "this form belongs to another site: "+origin, http.StatusForbidden)
		return false
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		http.Error(w, "the form cannot be read", http.StatusBadRequest)
		return false
	}
	return true
}

// Signing in: login.example.com/?return=… → the form → a session cookie for the
// whole domain → back.

func (s *shop) loginForm(w http.ResponseWriter, r *http.Request) {
	back, ok := returnOf(r)
	if !ok {
		s.render(w, r, http.StatusBadRequest, "message", page{Title: "That way leads out", Problem: "The return address is not of this shop."})
		return
	}
	s.loginPage(w, r, http.StatusOK, back, "")
}

func (s *shop) loginPage(w http.ResponseWriter, r *http.Request, status int, back, problem string) {
	s.render(w, r, status, "login", page{Title: "Sign in", Problem: problem, Return: template.URL(url.QueryEscape(back))})
}

func (s *shop) login(w http.ResponseWriter, r *http.Request) {
	back, ok := returnOf(r)
	if !ok {
		http.Error(w, "the return address is not of this shop", http.StatusBadRequest)
		return
	}
	if !s.formAllowed(w, r) {
		return
	}
	name := strings.TrimSpace(r.PostForm.Get("name"))
	if name == "" || len(name) > 160 || r.PostForm.Get("password") == "" {
		s.loginPage(w, r, http.StatusUnprocessableEntity, back, "A name and a password, please.")
		return
	}
	http.SetCookie(w, domainCookie("session", s.session(name), true))
	redirect(w, back)
}

func (s *shop) account(w http.ResponseWriter, r *http.Request) {
	if s.user(r) == "" {
		redirect(w, shopLogin+"/?return="+url.QueryEscape(shopHome+"/account"))
		return
	}
	s.render(w, r, http.StatusOK, "account", page{Title: "Your account"})
}

func (s *shop) logout(w http.ResponseWriter, r *http.Request) {
	if !s.formAllowed(w, r) {
		return
	}
	gone := domainCookie("session", "", true)
	gone.MaxAge = -1
	http.SetCookie(w, gone)
	redirect(w, shopHome+"/")
}

// returnOf is where a sign-in leads: the account, or the address asked for when
// it is on the shop itself.
func returnOf(r *http.Request) (back string, ok bool) {
	back = r.URL.Query().Get("return")
	if back == "" {
		return shopHome + "/account", true
	}
	return back, onHome(back)
}

// onHome tells whether address is on https://example.com. What browsers and
// net/url might read differently (a backslash, a control character) is not.
func onHome(address string) bool {
	u, err := url.Parse(address)
	return err == nil && u.Scheme == "https" && u.Host == shopDomain && u.User == nil && !strings.Contains(address, `\`)
}

// redirect answers a form: 303 (RFC 9110 section 15.4.4).
func redirect(w http.ResponseWriter, to string) {
	w.Header().Set("Location", to)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusSeeOther)
}

func domainCookie(name, value string, httpOnly bool) *http.Cookie {
	return &http.Cookie{
		Name: name, Value: value, Path: "/", Domain: shopDomain, MaxAge: int((24 * time.Hour).Seconds()),
		Secure: true, HttpOnly: httpOnly, SameSite: http.SameSiteLaxMode,
	}
}

// session is the name with the shop's signature, "bGlu.‹mac›".
func (s *shop) session(name string) string {
	encoded := base64.RawURLEncoding.EncodeToString([]byte(name))
	return encoded + "." + base64.RawURLEncoding.EncodeToString(s.sign(encoded))
}

func (s *shop) sign(text string) []byte {
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// user is who the session cookie names, "" for nobody.
func (s *shop) user(r *http.Request) string {
	c, err := r.Cookie("session")
	if err != nil {
		return ""
	}
	encoded, signature, _ := strings.Cut(c.Value, ".")
	mac, err := base64.RawURLEncoding.DecodeString(signature)
	if err != nil || !hmac.Equal(mac, s.sign(encoded)) {
		return ""
	}
	name, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return ""
	}
	return string(name)
}

// The API: JSON with escaped slashes, for the shop's own pages alone (CORS).

func (s *shop) apiProducts(w http.ResponseWriter, r *http.Request) {
	list := make([]map[string]any, len(teas))
	for i, t := range teas {
		list[i] = product(t)
	}
	w.Header().Set("Link", "<"+shopAPI+"/v1/products?page=2>; rel=\"next\", <"+shopHome+"/>; rel=\"alternate\"")
	sendJSON(w, r, http.StatusOK, map[string]any{"products": list, "self": shopAPI + "/v1/products"})
}

func (s *shop) apiProduct(w http.ResponseWriter, r *http.Request) {
	t, ok := teaOf(r.PathValue("slug"))
	if !ok {
		s.apiNotFound(w, r)
		return
	}
	sendJSON(w, r, http.StatusOK, product(t))
}

func product(t tea) map[string]any {
	return map[string]any{
		"slug": t.Slug, "name": t.Name, "chinese": t.Chinese, "kind": t.Kind, "price": t.Price,
		"url": shopHome + "/tea/" + t.Slug, "image": shopStatic + "/img/" + t.Slug + ".svg",
		"share": shopAPI + "/v1/share?url=" + url.QueryEscape(shopHome+"/tea/"+t.Slug),
		"html":  `<a href="` + shopHome + `/tea/` + t.Slug + `">` + t.Name + `</a>`,
	}
}

// apiMe tells a visitor what the shop sees of them.
func (s *shop) apiMe(w http.ResponseWriter, r *http.Request) {
	_, err := r.Cookie("visit")
	w.Header().Set("Cache-Control", "no-store")
	sendJSON(w, r, http.StatusOK, map[string]any{
		"user": s.user(r), "visit": err == nil, "client": r.RemoteAddr, "host": r.Host,
		"forwarded": map[string]string{
			"for": r.Header.Get("X-Forwarded-For"), "proto": r.Header.Get("X-Forwarded-Proto"), "host": r.Header.Get("X-Forwarded-Host"),
		},
	})
}

func (s *shop) apiEcho(w http.ResponseWriter, r *http.Request) {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if kind != "application/json" {
		sendJSON(w, r, http.StatusUnsupportedMediaType, map[string]any{"error": "send application/json"})
		return
	}
	var said any
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxForm)).Decode(&said); err != nil {
		sendJSON(w, r, http.StatusBadRequest, map[string]any{"error": "this is not JSON"})
		return
	}
	sendJSON(w, r, http.StatusOK, said)
}

// apiShare leads to the address in its query, on the shop alone.
func (s *shop) apiShare(w http.ResponseWriter, r *http.Request) {
	to := r.URL.Query().Get("url")
	if !onHome(to) {
		sendJSON(w, r, http.StatusBadRequest, map[string]any{"error": "the address is not of this shop"})
		return
	}
	redirect(w, to)
}

func (s *shop) apiNotFound(w http.ResponseWriter, r *http.Request) {
	sendJSON(w, r, http.StatusNotFound, map[string]any{"error": "no such thing", "documentation": shopHome + "/"})
}

// apiPreflight answers what a browser asks before a request it holds to be
// unusual (Fetch standard, CORS-preflight).
func (s *shop) apiPreflight(w http.ResponseWriter, r *http.Request) {
	if allowOrigin(w, r) {
		h := w.Header()
		h.Set("Access-Control-Allow-Methods", "GET, POST")
		h.Set("Access-Control-Allow-Headers", "Content-Type")
		h.Set("Access-Control-Max-Age", "600")
	}
	w.WriteHeader(http.StatusNoContent)
}

// allowOrigin lets the shop's pages, and no others, read the answer.
func allowOrigin(w http.ResponseWriter, r *http.Request) bool {
	h := w.Header()
	h.Add("Vary", "Origin")
	if r.Header.Get("Origin") != shopHome {
		return false
	}
	h.Set("Access-Control-Allow-Origin", shopHome)
	h.Set("Access-Control-Allow-Credentials", "true")
	h.Set("Access-Control-Expose-Headers", "Link")
	return true
}

func sendJSON(w http.ResponseWriter, r *http.Request, status int, value any) {
	allowOrigin(w, r)
	send(w, r, status, "application/json", escapedJSON(value))
}

// escapedJSON writes every / as \/, like PHP and many others.
func escapedJSON(value any) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Errorf("encode %T: %w", value, err)) // a fault of the shop's own values
	}
	return append(bytes.ReplaceAll(text, []byte("/"), []byte(`\/`)), '\n')
}

// live is a WebSocket (RFC 6455): {"echo": …} for each message, {"pours": n}
// every second. It takes none that does not come from the shop's own pages.
func (s *shop) live(w http.ResponseWriter, r *http.Request) {
	if origin := r.Header.Get("Origin"); origin != shopHome {
		http.Error(w, fmt.Sprintf("the origin %q is not this shop", origin), http.StatusForbidden)
		return
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // checked above
	if err != nil {
		return // Accept has answered
	}
	heard := make(chan string)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer conn.CloseNow()
	ctx, cancel := context.WithTimeout(r.Context(), streamLife)
	defer cancel()
	reading.Go(func() {
		defer cancel()
		for {
			_, text, err := conn.Read(ctx)
			if err != nil {
				return
			}
			select {
			case heard <- string(text):
			case <-ctx.Done():
				return
			}
		}
	})
	pause := time.NewTicker(streamPause)
	defer pause.Stop()
	for {
		var message map[string]any
		select {
		case text := <-heard:
			message = map[string]any{"echo": text}
		case <-pause.C:
			message = map[string]any{"pours": s.poured.Add(1)}
		case <-ctx.Done():
			conn.Close(websocket.StatusGoingAway, "closing time")
			return
		}
		if err := conn.Write(ctx, websocket.MessageText, escapedJSON(message)); err != nil {
			return
		}
	}
}

// events is a stream of server-sent events, one at once and one a second.
func (s *shop) events(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	flush := http.NewResponseController(w)
	pause := time.NewTicker(streamPause)
	defer pause.Stop()
	closing := time.NewTimer(streamLife)
	defer closing.Stop()
	for cup := 1; ; cup++ {
		data := escapedJSON(map[string]any{"cup": cup, "tea": shopHome + "/tea/" + teas[cup%len(teas)].Slug})
		_, err := fmt.Fprintf(w, "id: %d\nevent: steam\ndata: %s\n", cup, data)
		if err != nil || flush.Flush() != nil {
			return
		}
		select {
		case <-pause.C:
		case <-closing.C:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// download serves harvest-‹n›mb.bin, n MiB of noise, and harvest-‹n›mb.txt, n
// MiB of lines with an address each, made as they are read; Range works.
func (s *shop) download(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("file")
	size, kind, ok := strings.Cut(strings.TrimPrefix(name, "harvest-"), "mb.")
	count, err := strconv.Atoi(size)
	fill := map[string]func(p []byte, number int64){"bin": noiseBlock, "txt": textBlock}[kind]
	if !ok || err != nil || fill == nil || count < 1 || count > maxHarvest || fmt.Sprintf("harvest-%dmb.%s", count, kind) != name {
		s.notFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", map[string]string{"bin": "application/octet-stream", "txt": "text/plain; charset=utf-8"}[kind])
	h.Set("Content-Disposition", `attachment; filename="`+name+`"`)
	h.Set("ETag", `"`+name+`"`)
	h.Set("Cache-Control", "public, max-age=3600")
	http.ServeContent(w, r, "", built, io.NewSectionReader(harvest(fill), 0, int64(count)<<20))
}

// harvest is endless content in blocks of blockSize bytes, each made from its
// number alone.
type harvest func(p []byte, number int64)

const blockSize = 64

// ReadAt fills p with the content from offset on.
func (fill harvest) ReadAt(p []byte, offset int64) (int, error) {
	var block [blockSize]byte
	for done := 0; done < len(p); {
		at := offset + int64(done)
		fill(block[:], at/blockSize)
		done += copy(p[done:], block[at%blockSize:])
	}
	return len(p), nil
}

// noiseBlock is splitmix64 of the block's words.
func noiseBlock(p []byte, number int64) {
	for i := 0; i < blockSize; i += 8 {
		z := (uint64(number)*blockSize/8 + uint64(i/8) + 1) * 0x9e3779b97f4a7c15
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		binary.LittleEndian.PutUint64(p[i:], z^z>>31)
	}
}

func textBlock(p []byte, number int64) {
	text := fmt.Appendf(p[:0], "%012d https://example.com/tea/%s?harvest=%d", number, teas[number%int64(len(teas))].Slug, number%1000)
	for len(text) < blockSize-1 {
		text = append(text, ' ')
	}
	_ = append(text, '\n') // in place: p has blockSize bytes
}

// upload reads a body of any size and tells its size and SHA-256.
func (s *shop) upload(w http.ResponseWriter, r *http.Request) {
	if origin := r.Header.Get("Origin"); origin != "" && origin != shopHome {
		http.Error(w, "uploads come from the shop's own pages", http.StatusForbidden)
		return
	}
	sum := sha256.New()
	size, err := io.Copy(sum, r.Body)
	if err != nil {
		return // the client is gone, or its body was cut short
	}
	w.Header().Set("Cache-Control", "no-store")
	send(w, r, http.StatusOK, "application/json", escapedJSON(map[string]any{"bytes": size, "sha256": hex.EncodeToString(sum.Sum(nil))}))
}

func (s *shop) siteMap(w http.ResponseWriter, r *http.Request) {
	var b bytes.Buffer
	b.WriteString(`<?xml version="1.0" encoding="UTF-8"?>` + "\n" + `<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">` + "\n")
	fmt.Fprintf(&b, "<url><loc>%s/</loc></url>\n", shopHome)
	for _, t := range teas {
		fmt.Fprintf(&b, "<url><loc>%s/tea/%s</loc></url>\n", shopHome, t.Slug)
	}
	b.WriteString("</urlset>\n")
	send(w, r, http.StatusOK, "application/xml", b.Bytes())
}

func (s *shop) static(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "files are only read here", http.StatusMethodNotAllowed)
		return
	}
	a, ok := s.assets[r.URL.Path]
	if !ok {
		http.Error(w, "no such file", http.StatusNotFound)
		return
	}
	w.Header().Set("Cache-Control", "public, max-age=86400")
	a.send(w, r, http.StatusOK)
}

// send answers with a body made for this request.
func send(w http.ResponseWriter, r *http.Request, status int, kind string, body []byte) {
	a := asset{kind: kind, body: body, tag: tagOf(body)}
	if textLike(kind) && acceptsGzip(r) {
		a.zipped = zip(body)
	}
	a.send(w, r, status)
}

// send answers with the asset: gzipped when the client takes it, or 304 when it
// has it (RFC 9110 section 13.1.2). The two codings have a tag each.
func (a asset) send(w http.ResponseWriter, r *http.Request, status int) {
	h := w.Header()
	h.Set("Content-Type", a.kind)
	h.Set("X-Content-Type-Options", "nosniff")
	body, tag := a.body, a.tag
	if textLike(a.kind) {
		h.Add("Vary", "Accept-Encoding")
	}
	if a.zipped != nil && acceptsGzip(r) {
		body, tag = a.zipped, tag+"-gzip"
		h.Set("Content-Encoding", "gzip")
	}
	if status == http.StatusOK && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		tag = `"` + tag + `"`
		h.Set("ETag", tag)
		if matches(r.Header.Get("If-None-Match"), tag) {
			h.Del("Content-Encoding")
			h.Del("Content-Type")
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body) // the client may be gone; there is nobody to tell
}

func tagOf(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:10])
}

// matches is the weak comparison of If-None-Match.
func matches(header, tag string) bool {
	for one := range strings.SplitSeq(header, ",") {
		one = strings.TrimSpace(one)
		if one == "*" || strings.TrimPrefix(one, "W/") == tag {
			return true
		}
	}
	return false
}

// acceptsGzip reads Accept-Encoding (RFC 9110 section 12.5.3).
func acceptsGzip(r *http.Request) bool {
	for one := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		coding, weight, _ := strings.Cut(one, ";")
		if !strings.EqualFold(strings.TrimSpace(coding), "gzip") {
			continue
		}
		_, q, _ := strings.Cut(weight, "=")
		value, err := strconv.ParseFloat(strings.TrimSpace(q), 64)
		return err != nil || value > 0
	}
	return false
}

func textLike(kind string) bool {
	base, _, _ := strings.Cut(kind, ";")
	return strings.HasPrefix(base, "text/") || base == "application/json" || base == "application/xml" || base == "image/svg+xml"
}

// zip is body gzipped, nil when that is not worth it.
func zip(body []byte) []byte {
	if len(body) < minGzip {
		return nil
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(body) // a bytes.Buffer takes everything
	if z.Close() != nil || b.Len() >= len(body) {
		return nil
	}
	return b.Bytes()
}
