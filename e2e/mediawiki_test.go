package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// mediawiki is Debian's MediaWiki as https://wiki.example.com.
type mediawiki struct {
	*application
	data string // folder of its SQLite databases
}

const (
	mediawikiTree     = "/usr/share/mediawiki"
	mediawikiPassword = "correct horse battery staple"
)

// mediawikiMore is added to what its installer writes: cookies for the whole
// domain, a content security policy, short addresses.
const mediawikiMore = `
$wgArticlePath = "/wiki/$1";
$wgUsePathInfo = true;
$wgCookieDomain = ".example.com";
$wgCSPHeader = true;
$wgCacheDirectory = "CACHE";
$wgUploadDirectory = "IMAGES"; $wgUploadPath = "/images"; $wgEnableUploads = true;
$wgMainCacheType = CACHE_NONE; $wgParserCacheType = CACHE_NONE;
$wgEnableEmail = false;
$wgSearchSuggestCacheExpiry = 0;
$wgPasswordAttemptThrottle = [];
$wgRateLimits = [];
$wgAllowExternalImages = true;
`

// newMediaWiki installs it with databases and settings of its own and serves it.
func newMediaWiki(t *testing.T) *mediawiki {
	t.Helper()
	require(t, "php", "nginx", "chromium")
	if _, err := os.Stat(mediawikiTree); err != nil {
		missing(t, "mediawiki")
	}
	if _, err := os.Stat(mediawikiTree + "/LocalSettings.php"); err == nil {
		t.Fatal("there is a MediaWiki in service on this computer: " + mediawikiTree + "/LocalSettings.php; run the test on another one")
	}
	dir := t.TempDir()
	m := &mediawiki{data: filepath.Join(dir, "data")}
	for _, name := range []string{"data", "cache", "images", "conf"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	conf := filepath.Join(dir, "conf")
	mustRun(t, "php", mediawikiTree+"/maintenance/install.php", "--confpath="+conf, "--dbtype=sqlite", "--dbpath="+m.data, "--dbname=wiki",
		"--server=https://wiki.example.com", "--scriptpath=", "--pass="+mediawikiPassword, "--skins=Vector", "--extensions=WikiEditor", "Wiki", "Admin")
	settings := filepath.Join(conf, "LocalSettings.php")
	written, err := os.ReadFile(settings)
	if err != nil {
		t.Fatal(err)
	}
	more := strings.NewReplacer("CACHE\"", filepath.Join(dir, "cache")+"\"", "IMAGES", filepath.Join(dir, "images")).Replace(mediawikiMore)
	writeFile(t, conf, "LocalSettings.php", string(written)+more)
	php := startPHP(t, "env[MW_CONFIG_FILE] = "+settings)
	m.application = serveApplication(t, "wiki", fmt.Sprintf(`
		root %s;
		location = / { return 301 https://wiki.example.com/wiki/Main_Page; }
		location /wiki/ { rewrite ^ /index.php last; }
		location /images/ { alias %s/images/; }
		location /rest.php/ { rewrite ^ /rest.php last; }
		location ~ ^/(index|api|load|rest|opensearch_desc)\.php$ { %s }
		location ~ ^/(resources|skins|extensions)/ { }
		location / { return 404; }`, mediawikiTree, dir, fastCGI(php)))
	return m
}

// stored is all that MediaWiki has stored.
func (m *mediawiki) stored(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob(m.data + "/*.sqlite*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no databases in %s", m.data)
	}
	var all strings.Builder
	for _, name := range files {
		if strings.Contains(name, "l10n") {
			continue // its own messages
		}
		bytes, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(bytes)
	}
	return all.String()
}

// mediawikiVisit does what one does at a wiki, in a browser. It writes the page
// title.
func mediawikiVisit(v *visit, title string) *visit {
	v.t.Helper()
	ready := holds(`window.mw && mw.loader && mw.loader.getState("mediawiki.page.ready") == "ready"`)
	link := v.base + "/wiki/Main_Page?from=" + title
	editor := func(words string) string {
		return fmt.Sprintf("Words for me@example.com about %s, [%s home] and [[Main Page]].", words, link)
	}

	v.step("main page", v.open("/"), v.isAt("/wiki/Main_Page"), says("h1", "Main Page"), ready)
	v.step("sent to log in", v.open("/index.php?title=Special:UserLogin&returnto=Special:SpecialPages&returntoquery=from%3D"+title), says("h1", "Log in"))
	v.step("log in leads back", write("#wpName1", "Admin"), write("#wpPassword1", mediawikiPassword), press("#wpLoginAttempt"),
		says("h1", "Special pages"), holds(fmt.Sprintf(`location.origin == %q && location.href.includes("from=%s")`, v.base, title)), says("#pt-userpage", "Admin"))
	v.step("recent changes", v.open("/wiki/Special:RecentChanges"), says("h1", "Recent changes"), holds(`document.querySelector(".mw-rcfilters-ui-filterWrapperWidget, .rcfilters-head .oo-ui-widget")`), says(".mw-changeslist", "Main Page"))
	v.step("edit", v.open("/index.php?title="+title+"&action=edit"), holds(`document.querySelector(".wikiEditor-ui-toolbar")`),
		write("#wpTextbox1", editor("green tea")), write("#wpSummary", "from "+link), press("#wpSave"),
		v.isAt("/wiki/"+title), says("#mw-content-text", "Words for me@example.com about green tea"),
		holds(fmt.Sprintf(`document.querySelector('#mw-content-text a.external').href == %q`, link)))
	v.step("follow the link", press("#mw-content-text a.external"), v.isAt("/wiki/Main_Page?from="+title), says("h1", "Main Page"))
	v.step("edit again", v.open("/index.php?title="+title+"&action=edit"), holds(fmt.Sprintf(`document.querySelector("#wpTextbox1").value.trim() == %q`, editor("green tea"))),
		holds(`document.querySelector(".wikiEditor-ui-toolbar")`), press("#wpPreview"), says("#wikiPreview", "Words for me@example.com"))
	v.step("edit by the API", v.open("/wiki/"+title), ready,
		evaluate(fmt.Sprintf(`(async () => { await mw.loader.using("mediawiki.api"); const done = await new mw.Api().postWithToken("csrf", {action: "edit", title: %q, text: %q}); document.title = "edit: " + done.edit.result; })()`, title, editor("black tea"))),
		holds(`document.title == "edit: Success"`),
		v.open("/wiki/"+title+"?edited"), says("#mw-content-text", "black tea")) // its Last-Modified may be of the same second
	v.step("history and difference", v.open("/index.php?title="+title+"&action=history"), says("#pagehistory", "from "+link), press(`input[value="Compare selected revisions"]`), says(".diff-addedline", "black"), says(".diff-deletedline", "green"))
	v.step("recent changes tell", v.open("/wiki/Special:RecentChanges"), says(".mw-changeslist", title))
	v.step("search", v.open("/index.php?search=black+words"), says("h1", "Search results"))
	v.step("suggestions", v.open("/wiki/Main_Page"), write("#searchInput, input[name=search]", title[:3]), holds(fmt.Sprintf(`[...document.querySelectorAll(".suggestions-result, .cdx-menu-item")].some(e => e.textContent.includes(%q))`, title)))
	v.step("search leads to the page", v.open("/index.php?search="+title+"&go=Go"), v.isAt("/wiki/"+title))
	v.step("api.php", v.answers("/api.php?action=query&meta=siteinfo&format=json", 200, `"base":"`+v.base+`/wiki/Main_Page"`),
		v.answers("/api.php?action=parse&prop=text&page="+title+"&format=json", 200, `href=\"`+link+`\"`),
		v.answers("/api.php?action=query&prop=info&inprop=url&titles="+title+"&format=json", 200, `"fullurl":"`+v.base+"/wiki/"+title+`"`))
	v.step("rest.php", v.answers("/rest.php/v1/page/"+title, 200, link))
	v.step("load.php", v.answers("/load.php?modules=startup&only=scripts&raw=1", 200, "mw.loader"), v.answers("/load.php?modules=skins.vector.styles.legacy&only=styles", 200, "{"))
	v.step("feed", v.answers("/index.php?title=Special:RecentChanges&feed=atom", 200, v.base+"/index.php?title="+title))
	v.step("export", v.answers("/wiki/Special:Export/"+title, 200, "<base>"+v.base+"/wiki/Main_Page</base>"))
	v.step("search description", v.answers("/opensearch_desc.php", 200, v.base+"/index.php?title=Special:Search"))
	v.step("log out", v.open("/wiki/Special:UserLogout"), press(`#mw-content-text button[type=submit], #mw-content-text input[type=submit]`), says("#mw-content-text", "You are now logged out"))
	v.cookies()
	return v
}

// TestMediaWiki: a wiki under its public name is what it is at home, and nothing
// that a visitor can see names its origin; and nothing that MediaWiki stored
// names the public host.
func TestMediaWiki(t *testing.T) {
	m := newMediaWiki(t)
	direct := mediawikiVisit(newVisit(t, "https://wiki.example.com", m.address, m.certFile), "Straight")
	for _, broken := range direct.broken {
		t.Fatalf("straight at the origin: %s", broken)
	}
	t.Logf("straight at the origin, the console has %q", direct.complaints())

	// Its scripts are told the name of the host as a string: "wgServerName".
	c, certFile := m.crossed(t, edgeAndRelay, "{bare: true}")
	v := mediawikiVisit(newVisit(t, "https://wiki.example.cn", c.https, certFile), "Crossed")
	v.mustBeLike(direct)
	v.seen.mustBeClean(t, inBodies, inPages, inHeaders, inCookies, inRequests)
	v.seen.mustBeExplained(t)
	t.Logf("addresses of mail that stay: %q", v.mail())
	stored := m.stored(t)
	for rest := stored; ; {
		before, after, found := strings.Cut(rest, "example.cn")
		if !found {
			break
		}
		t.Errorf("MediaWiki stored the public host: %q", before[max(0, len(before)-80):]+"example.cn"+after[:min(len(after), 40)])
		rest = after
	}

	address, certFile := m.filtered(t)
	filtered := newVisit(t, "https://wiki.example.cn", address, certFile)
	filtered.like = direct
	mediawikiVisit(filtered, "Filtered")
	logTable(t, tableRow{"causeway, edge and relay", v, strings.Count(stored, "example.cn")}, tableRow{"nginx sub_filter", filtered, strings.Count(m.stored(t), "example.cn")})
}
