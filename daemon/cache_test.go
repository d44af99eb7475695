package daemon_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// A reload that turns the cache off, or gives it another folder, cuts nothing that
// is fetched at that moment; and the folder can be taken back meanwhile.
func TestReloadOfTheCacheCutsNothing(t *testing.T) {
	asked, finish := make(chan struct{}), make(chan struct{})
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		if r.URL.Path == "/late" {
			asked <- struct{}{}
			<-finish
		}
		fmt.Fprint(w, "begun, ")
		_ = http.NewResponseController(w).Flush()
		if r.URL.Path == "/slow" {
			asked <- struct{}{}
			<-finish
		}
		fmt.Fprint(w, "done")
	}))
	defer origin.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "causeway.yaml")
	address, adminAddress := freeAddress(t), freeAddress(t)
	with := func(cache string) {
		write(t, file, fmt.Sprintf(oneSite, address, adminAddress, origin.URL, "cache: "+cache))
	}
	a, b := "{disk: 16MiB, dir: "+dir+"/a}", "{disk: 16MiB, dir: "+dir+"/b}"
	with(a)
	n := start(t, file, "")
	get := client(t)
	answers := make(chan string, 2)
	for _, path := range []string{"/slow", "/late"} {
		go func() {
			_, body, err := get(address, "example.cn", path)
			answers <- fmt.Sprint(path, " ", body, " ", err)
		}()
		<-asked
	}
	for _, cache := range []string{"off", b, a} {
		with(cache)
		if err := n.Reload(); err != nil {
			t.Errorf("cache: %s: %v", cache, err)
		}
	}
	if _, body, err := get(address, "example.cn", "/other"); body != "begun, done" || err != nil {
		t.Errorf("another request meanwhile: %q %v", body, err)
	}
	close(finish)
	for range 2 {
		if got := <-answers; !strings.HasSuffix(got, " begun, done <nil>") {
			t.Errorf("the request under way got %q", got)
		}
	}
}
