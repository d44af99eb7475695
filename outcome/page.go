package outcome

import (
	"fmt"
	"net/http"
	"strconv"
)

// page is what a visitor sees when a request failed: Chinese first, the
// request id to quote, and nothing of the inside.
const page = `<!doctype html>
<html lang="zh-CN"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>%[1]d</title>
<style>body{font:16px/1.6 system-ui,sans-serif;max-width:36em;margin:15vh auto;padding:0 1.5em;color:#222}small,p+p{color:#666}code{font-size:.9em}</style>
<h1>%[1]d</h1><p>页面暂时无法打开，请稍后再试。</p><p>%[2]s</p><small>Request <code>%[3]s</code></small></html>
`

// WritePage answers a failed request: the status of its kind and a short page
// that names the request id and no internals. Nothing may have been written
// yet. It gives the bytes of the body that were written.
func WritePage(w http.ResponseWriter, method string, kind Kind, requestID string) int64 {
	entry := EntryOf(kind)
	body := fmt.Sprintf(page, entry.Status, entry.Say, requestID)
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Length", strconv.Itoa(len(body)))
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(entry.Status)
	if method == http.MethodHead {
		return 0
	}
	n, _ := w.Write([]byte(body))
	return int64(n)
}
