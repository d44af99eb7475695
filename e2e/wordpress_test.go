package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// wordpress is Debian's WordPress as https://blog.example.com.
type wordpress struct {
	*application
	dir      string
	database string // socket of MariaDB
	picture  string // a PNG to upload
}

const wordpressPassword = "correct horse battery"

// wordpressConf is its configuration: nothing goes out, cookies are for the
// whole domain.
const wordpressConf = `<?php
define('DB_NAME', 'wordpress'); define('DB_USER', 'root'); define('DB_PASSWORD', ''); define('DB_HOST', 'localhost:DATABASE');
define('DB_CHARSET', 'utf8mb4'); define('DB_COLLATE', '');
define('WP_HOME', 'https://blog.example.com'); define('WP_SITEURL', 'https://blog.example.com');
define('COOKIE_DOMAIN', '.example.com');
define('AUTH_KEY', 'a'); define('SECURE_AUTH_KEY', 'b'); define('LOGGED_IN_KEY', 'c'); define('NONCE_KEY', 'd');
define('AUTH_SALT', 'e'); define('SECURE_AUTH_SALT', 'f'); define('LOGGED_IN_SALT', 'g'); define('NONCE_SALT', 'h');
define('DISABLE_WP_CRON', true); define('WP_HTTP_BLOCK_EXTERNAL', true); define('AUTOMATIC_UPDATER_DISABLED', true);
function wp_mail() { return true; }
$table_prefix = 'wp_';
if (!defined('ABSPATH')) { define('ABSPATH', __DIR__ . '/'); }
require_once ABSPATH . 'wp-settings.php';
`

// wordpressInstall is what its installation form does. Pictures of persons come
// from a third party, and are off.
const wordpressInstall = `<?php
define('WP_INSTALLING', true);
$_SERVER += ['HTTP_HOST' => 'blog.example.com', 'HTTPS' => 'on', 'REQUEST_URI' => '/wp-admin/install.php', 'SERVER_PROTOCOL' => 'HTTP/1.1', 'REQUEST_METHOD' => 'GET'];
chdir(__DIR__);
require 'wp-load.php';
require 'wp-admin/includes/upgrade.php';
wp_install('Notes', 'admin', 'admin@example.com', true, '', 'PASSWORD');
update_option('permalink_structure', '/%postname%/');
update_option('show_avatars', 0);
update_option('comment_previously_approved', 0);
flush_rewrite_rules();
echo 'installed';
`

// newWordPress installs it in a folder of its own and serves it.
func newWordPress(t *testing.T) *wordpress {
	t.Helper()
	require(t, "php", "cp", "nginx", "chromium")
	if _, err := os.Stat("/usr/share/wordpress/wp-content/themes/twentytwentythree"); err != nil {
		missing(t, "wordpress or wordpress-theme-twentytwentythree")
	}
	w := &wordpress{dir: filepath.Join(t.TempDir(), "wordpress"), database: startMariaDB(t, "wordpress")}
	mustRun(t, "cp", "-rL", "/usr/share/wordpress", w.dir)
	writeFile(t, w.dir, "wp-config.php", strings.ReplaceAll(wordpressConf, "DATABASE", w.database))
	// All visitors come from one address.
	writeFile(t, w.dir, "wp-content/mu-plugins/flood.php", "<?php add_filter('comment_flood_filter', '__return_false', 99); add_filter('wp_is_comment_flood', '__return_false', 99);")
	install := writeFile(t, w.dir, "install-once.php", strings.ReplaceAll(wordpressInstall, "PASSWORD", wordpressPassword))
	if r := mustRun(t, "php", install); !strings.HasSuffix(r.stdout, "installed") {
		t.Fatalf("install WordPress: %s %s", tail(r.stdout, 2000), tail(r.stderr, 2000))
	}
	if err := os.Remove(install); err != nil {
		t.Fatal(err)
	}
	php := startPHP(t, "php_admin_value[upload_max_filesize] = 16M")
	w.application = serveApplication(t, "blog", fmt.Sprintf(`
		root %s; index index.php;
		location / { try_files $uri $uri/ /index.php?$args; }
		location ~ \.php$ { try_files $uri =404; %s }`, w.dir, fastCGI(php)))
	w.picture = filepath.Join(t.TempDir(), "tea.png")
	if err := os.WriteFile(w.picture, wordpressPicture(t), 0o644); err != nil {
		t.Fatal(err)
	}
	return w
}

// wordpressPicture is a PNG of one pixel.
func wordpressPicture(t *testing.T) []byte {
	t.Helper()
	const pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
	png, err := base64.StdEncoding.DecodeString(pixel)
	if err != nil {
		t.Fatal(err)
	}
	return png
}

// wordpressRewrite is what its site needs beyond the usual: a visitor's own URL
// is kept for the next comment in a cookie. Its name ends in the MD5 of the
// blog's address.
const wordpressRewrite = "{cookies: [comment_author_url_*]}"

// dump is all that WordPress has stored.
func (w *wordpress) dump(t *testing.T) string {
	t.Helper()
	return mustRun(t, "mariadb-dump", "--no-defaults", "--socket="+w.database, "-uroot", "--skip-extended-insert", "--no-create-info", "wordpress").stdout
}

// ask runs a query that gives one value.
func (w *wordpress) ask(t *testing.T, query string) string {
	t.Helper()
	return strings.TrimSpace(mustRun(t, "mariadb", "--no-defaults", "--socket="+w.database, "-uroot", "-N", "-e", query, "wordpress").stdout)
}

// wordpressReads is what a visitor does who has no account: read a post, and
// comment on it in words of their own, from a site that is this one.
func wordpressReads(v *visit, words string) {
	v.t.Helper()
	from := strings.ToLower(strings.ReplaceAll(words, " ", "-"))
	v.step("front page", v.open("/"), says("h1, .wp-block-site-title", "Notes"), says("a", "Hello world!"))
	v.step("a post", press(`h2 a[href$="/hello-world/"]`), v.isAt("/hello-world/"), says("h1", "Hello world!"))
	v.step("comment as a visitor", write("#comment", words), write("#author", "Lin"), write("#email", "lin@example.com"),
		write("#url", v.base+"/"+from+"/"), press("#wp-comment-cookies-consent"), press("#submit"),
		v.isAt("/hello-world/"), says(".comment-content, .wp-block-comment-content", words),
		holds(fmt.Sprintf(`location.hash.startsWith("#comment-") && document.querySelector('a[href="%s/%s/"]')`, v.base, from)))
}

// wordpressLogsIn is the way of somebody who wanted to write a post and is asked
// for a password first.
func wordpressLogsIn(v *visit) {
	v.t.Helper()
	v.step("sent to log in", v.open("/wp-admin/post-new.php"), v.isAt("/wp-login.php"),
		holds(fmt.Sprintf(`document.querySelector("[name=redirect_to]").value == %q`, v.base+"/wp-admin/post-new.php")))
	v.step("log in", chromedp.SetValue(chromedp.CSS("#user_login"), "admin"), chromedp.SetValue(chromedp.CSS("#user_pass"), wordpressPassword),
		press("#wp-submit"), v.isAt("/wp-admin/"), says("#wpadminbar", "Howdy"))
	v.step("log in leads back", v.isAt("/wp-admin/post-new.php"))
	v.step("dashboard", v.open("/wp-admin/"), says("h1", "Dashboard"), says("#wpadminbar", "Howdy"))
}

// wordpressWrites is what an author does: a post in the block editor, with a
// link, a picture and an embedded post, and what there is to fill in besides.
func wordpressWrites(v *visit, title, slug, picture string) {
	v.t.Helper()
	v.step("block editor", v.open("/wp-admin/post-new.php"), holds(`window.wp && wp.data && document.querySelector(".editor-post-title__input")`),
		evaluate(`wp.data.select("core/edit-post").isFeatureActive("welcomeGuide") && wp.data.dispatch("core/edit-post").toggleFeature("welcomeGuide"); 0`),
		write(".editor-post-title__input", title), chromedp.KeyEvent(kb.Enter),
		chromedp.KeyEvent("Tea for me@example.com, see "+v.base+"/hello-world/ for more."), says(".block-editor-rich-text__editable", "for more."))
	v.step("upload in the editor",
		evaluate(`wp.data.dispatch("core/block-editor").insertBlocks(wp.blocks.createBlock("core/image")); 0`),
		chromedp.SetUploadFiles(chromedp.CSS(".wp-block-image input[type=file]"), []string{picture}, chromedp.NodeReady),
		holds(fmt.Sprintf(`[...document.querySelectorAll(".wp-block-image img")].some(i => i.src.startsWith(%q) && i.complete && i.naturalWidth == 1)`, v.base+"/wp-content/uploads/")))
	v.step("embed in the editor",
		evaluate(fmt.Sprintf(`wp.data.dispatch("core/block-editor").insertBlocks(wp.blocks.createBlock("core/embed", {url: %q})); 0`, v.base+"/hello-world/")),
		holds(`document.querySelector(".wp-block-embed iframe")`))
	v.step("publish", press(".editor-post-publish-panel__toggle"), press(".editor-post-publish-button"),
		holds(fmt.Sprintf(`document.querySelector('.post-publish-panel__postpublish-buttons a[href="%s/%s/"]')`, v.base, slug)))
	v.step("view the post", v.open("/"+slug+"/"), says("h1", title), says("p", "Tea for me@example.com, see "+v.base+"/hello-world/ for more."),
		holds(fmt.Sprintf(`[...document.querySelectorAll(".wp-block-image img")].some(i => i.src.startsWith(%q) && i.complete && i.naturalWidth == 1)`, v.base+"/wp-content/uploads/")),
		holds(fmt.Sprintf(`[...document.querySelectorAll(".wp-block-embed iframe")].some(i => i.src.startsWith(%q))`, v.base+"/hello-world/embed/")))
	v.step("comment as its author", write("#comment", "Second of "+title), press("#submit"), v.isAt("/"+slug+"/"), says(".comment-content, .wp-block-comment-content", "Second of "+title))
	v.step("edit it again", v.open("/wp-admin/edit.php"), says("a.row-title", title), press(`a.row-title[aria-label*="`+title+`"]`),
		holds(fmt.Sprintf(`window.wp && wp.data && wp.data.select("core/editor") && (wp.data.select("core/editor").getEditedPostContent() || "").includes(%q)`, v.base+"/hello-world/ for more.")))
	v.step("upload by a form", v.open("/wp-admin/media-new.php?browser-uploader=1"), chromedp.SetUploadFiles(chromedp.CSS("#async-upload"), []string{picture}, chromedp.NodeReady),
		press("#html-upload"), v.isAt("/wp-admin/upload.php"), holds(`document.querySelector(".attachment img, #the-list img")`))
	v.step("settings", v.open("/wp-admin/options-general.php"), holds(fmt.Sprintf(`document.querySelector("#siteurl").value == %q`, v.base)), press("#submit"), says("#setting-error-settings_updated", "Settings saved"))
	v.step("profile", v.open("/wp-admin/profile.php"), chromedp.SetValue(chromedp.CSS("#url"), v.base+"/me"), press("#submit"), says("#message", "Profile updated"), holds(fmt.Sprintf(`document.querySelector("#url").value == %q`, v.base+"/me")))
}

// wordpressAsks is what programs do: REST, oEmbed, feeds, sitemaps; about a post
// with comments.
func wordpressAsks(v *visit, title, slug string) {
	v.t.Helper()
	v.step("REST", v.open("/"), v.answers("/wp-json/", 200, `"url":"`+strings.ReplaceAll(v.base, "/", `\/`)+`"`),
		v.answers("/wp-json/wp/v2/posts?search="+title, 200, strings.ReplaceAll(v.base+"/"+slug+"/", "/", `\/`)))
	v.step("oEmbed", v.answers("/wp-json/oembed/1.0/embed?url="+strings.NewReplacer(":", "%3A", "/", "%2F").Replace(v.base+"/"+slug+"/"), 200, `"title":"`+title),
		v.open("/hello-world/embed/"), says(".wp-embed-heading", "Hello world!"))
	v.step("feeds", v.answers("/feed/", 200, "<link>"+v.base+"/"+slug+"/</link>"), v.answers("/comments/feed/", 200, v.base+"/"+slug+"/#comment-"), v.answers("/"+slug+"/feed/", 200, v.base+"/"+slug+"/#comment-"))
	v.step("sitemap", v.answers("/wp-sitemap.xml", 200, "<loc>"+v.base+"/wp-sitemap-posts-post-1.xml</loc>"), v.answers("/wp-sitemap-posts-post-1.xml", 200, "<loc>"+v.base+"/"+slug+"/</loc>"), v.answers("/robots.txt", 200, "Sitemap: "+v.base+"/wp-sitemap.xml"))
	v.step("search", v.open("/?s="+title), says("main", title))
}

// wordpressLogsOut ends a visit.
func wordpressLogsOut(v *visit) {
	v.t.Helper()
	v.step("log out", v.open("/wp-admin/profile.php"), holds(`document.querySelector("#wp-admin-bar-logout a")`), evaluate(`document.querySelector("#wp-admin-bar-logout a").click(); 0`), v.isAt("/wp-login.php?loggedout=true"), says(".message", "logged out"))
	v.cookies()
}

// wordpressVisit is all of that, with a post of its own.
func wordpressVisit(v *visit, picture, title string) *visit {
	v.t.Helper()
	slug := strings.ToLower(title)
	wordpressReads(v, "First of "+title)
	wordpressLogsIn(v)
	wordpressWrites(v, title, slug, picture)
	wordpressAsks(v, title, slug)
	wordpressLogsOut(v)
	return v
}

// TestWordPress: a blog under its public name is what it is at home, and nothing
// that a visitor can see names its origin; and nothing that WordPress stored
// names the public host.
func TestWordPress(t *testing.T) {
	w := newWordPress(t)
	direct := wordpressVisit(newVisit(t, "https://blog.example.com", w.address, w.certFile), w.picture, "Straight")
	for _, broken := range direct.broken {
		t.Fatalf("straight at the origin: %s", broken)
	}
	t.Logf("straight at the origin, the console has %q", direct.complaints())

	whole := w.throughCauseway(t, direct, edgeAndRelay, func(v *visit) { wordpressVisit(v, w.picture, "Crossed") })
	short := w.throughCauseway(t, direct, oneProcess, func(v *visit) {
		wordpressReads(v, "In one process")
		wordpressLogsIn(v)
		wordpressAsks(v, "Hello", "hello-world")
		wordpressLogsOut(v)
	})
	stored := w.dump(t)
	for line := range strings.Lines(stored) {
		if at := strings.Index(line, "example.cn"); at >= 0 {
			t.Errorf("WordPress stored the public host: %s", line[max(0, at-200):min(len(line), at+100)])
		}
	}

	address, certFile := w.filtered(t)
	filtered := newVisit(t, "https://blog.example.cn", address, certFile)
	filtered.like = direct
	wordpressVisit(filtered, w.picture, "Filtered")
	logTable(t,
		tableRow{"causeway, edge and relay", whole, strings.Count(stored, "example.cn")},
		tableRow{"causeway, one process", short, strings.Count(stored, "example.cn")},
		tableRow{"nginx sub_filter", filtered, strings.Count(w.dump(t), "example.cn")})
}

// throughCauseway walks through a crossing and says all that is not as it is
// straight at the origin.
func (w *wordpress) throughCauseway(t *testing.T, direct *visit, l layout, walk func(*visit)) *visit {
	t.Helper()
	c, certFile := w.crossed(t, l, wordpressRewrite)
	v := newVisit(t, "https://blog.example.cn", c.https, certFile)
	walk(v)
	v.mustBeLike(direct)
	v.seen.mustBeClean(t, inBodies, inPages, inHeaders, inCookies, inRequests)
	v.seen.mustBeExplained(t, "The WordPress URL and the site URL can be the same (example.com)", "having the WordPress core files (example.com/wordpress)")
	t.Logf("%s, addresses of mail that stay: %q", l, v.mail())
	wordpressFetch(t, w, c)
	return v
}

// wordpressFetch looks at what a browser does not show: a picture's bytes, an
// answer that is not modified, the header of a page.
func wordpressFetch(t *testing.T, w *wordpress, c *crossing) {
	t.Helper()
	client := c.client(t, 2)
	const page = "https://blog.example.cn/hello-world/"
	first := get(t, client, page)
	links := strings.Join(first.Header.Values("Link"), ", ")
	if first.StatusCode != http.StatusOK || !strings.Contains(links, "<https://blog.example.cn/wp-json/>") {
		t.Errorf("%s: %d, Link %q", page, first.StatusCode, links)
	}
	feed := get(t, client, "https://blog.example.cn/feed/")
	if tag := feed.Header.Get("Etag"); tag == "" {
		t.Errorf("the feed has no entity tag: %v", feed.Header)
	} else if again := get(t, client, "https://blog.example.cn/feed/", "If-None-Match: "+tag, "If-Modified-Since: "+feed.Header.Get("Last-Modified")); again.StatusCode != http.StatusNotModified {
		t.Errorf("the feed again with its tag %s: %d", tag, again.StatusCode)
	}
	picture := w.ask(t, "SELECT guid FROM wp_posts WHERE post_type = 'attachment' ORDER BY ID DESC LIMIT 1")
	got := get(t, client, strings.Replace(picture, "example.com", "example.cn", 1))
	want, err := os.ReadFile(w.picture)
	if err != nil || got.StatusCode != http.StatusOK || !bytes.Equal(got.body, want) {
		t.Errorf("%s: %d, %d bytes, want %d %v", picture, got.StatusCode, len(got.body), len(want), err)
	}
}
