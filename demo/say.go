package demo

import (
	"fmt"
	"io"
	"path/filepath"
)

// sayWhatRuns shows the crossing as it is.
func (s *site) sayWhatRuns(out io.Writer, file string) {
	fmt.Fprintf(out, `A tea shop lives overseas as https://example.com. Now it is here too:

  visitor → edge %s ══ link: %v, %.3g %% loss ══ relay %s → origin
  https://shop.localhost:%s                                      https://example.com

  file  %s
`, edgeNode, s.options.RTT, s.options.Loss*100, relayNode, s.port, file)
}

// sayWhatToTry lists commands that work as they stand.
func (s *site) sayWhatToTry(out io.Writer) {
	ca := filepath.Join(s.dir, "ca.pem")
	fmt.Fprintf(out, `
Open      https://shop.localhost:%[1]s/
          Your browser will ask: the certificate is signed by %[2]s,
          made for this demo alone. Trust it in the browser, or go on past the warning.
Try       curl --cacert %[2]s https://shop.localhost:%[1]s/
          curl --cacert %[2]s https://api.shop.localhost:%[1]s/v1/products
          curl --cacert %[2]s -N https://shop.localhost:%[1]s/events
          curl http://%[3]s/metrics
Stop      Ctrl-C
`, s.port, ca, s.options.Admin)
}
