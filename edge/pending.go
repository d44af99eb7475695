package edge

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"

	"causeway/config"
)

// holdingPage is what visitors see of a site that is not open yet.
const holdingPage = `<!doctype html>
<html lang="zh-CN"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta name="robots" content="noindex"><title>即将开放 · Coming soon</title>
<style>body{font:16px/1.6 system-ui,sans-serif;max-width:36em;margin:15vh auto;padding:0 1.5em;color:#222}p+p{color:#666}</style>
<h1>即将开放</h1><p>网站正在准备中，请稍后再来。</p><p lang="en">This site is not open yet. Please come back later.</p></html>
`

// holdFor is when to come back, in seconds (RFC 9110 section 10.2.3): a filing
// takes weeks, and then nobody wants to wait for a robot's next visit.
const holdFor = "3600"

// ReadPages reads the pages of the pending sites that the node shows.
func ReadPages(cfg *config.Config, node *config.Node) (map[*config.Site][]byte, error) {
	pages := make(map[*config.Site][]byte)
	for _, site := range cfg.Sites {
		if site.Pending.Page == "" || !node.IsEdge() && !site.EndsTLS(node) {
			continue
		}
		page, err := readPage(site.Pending.Page)
		if err != nil {
			return nil, fmt.Errorf("read pending.page of site %s: %w", site.Name, err)
		}
		pages[site] = page
	}
	return pages, nil
}

func readPage(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	page, err := io.ReadAll(io.LimitReader(f, config.MaxPage+1))
	if err == nil && len(page) > config.MaxPage {
		return nil, fmt.Errorf("%s is larger than 1 MiB", file)
	}
	return page, err
}

// hold shows that the site is not open yet. It is no failure. Nothing is
// promised of https meanwhile.
func (x *exchange) hold() {
	page, ok := x.Pages[x.site]
	if !ok {
		page = []byte(holdingPage)
	}
	header := x.w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Length", strconv.Itoa(len(page)))
	header.Set("Cache-Control", "no-store")
	header.Set("Retry-After", holdFor)
	header.Set("X-Content-Type-Options", "nosniff")
	x.rec.Status = http.StatusServiceUnavailable
	x.w.WriteHeader(x.rec.Status)
	if x.r.Method != http.MethodHead {
		n, _ := x.w.Write(page) // the visitor may have left
		x.rec.BytesOut = int64(n)
	}
}
