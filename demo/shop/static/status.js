// What a shop page does besides being read: it asks the API on another host,
// keeps a WebSocket and an event stream open, and relies on a cookie of the
// whole domain. Each tells in words how it went.
(function () {
  "use strict";
  const api = "https://api.example.com/v1";
  const show = (id, ok, text) => {
    const at = document.getElementById(id);
    at.className = ok ? "ok" : "bad";
    at.textContent = (ok ? "ok: " : "failed: ") + text;
  };
  const json = async (path, options) => {
    const answer = await fetch(api + path, Object.assign({ credentials: "include" }, options));
    if (!answer.ok) throw new Error("status " + answer.status);
    return answer.json();
  };

  (async () => {
    const data = JSON.parse(document.getElementById("shop-data").textContent);
    const list = await json("/products");
    const echo = await json("/echo", { // a JSON body asks for a preflight first
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ said: "hello" }),
    });
    if (echo.said !== "hello") throw new Error("the echo said " + JSON.stringify(echo));
    if (data.api !== api) throw new Error("the page says the API is " + data.api);
    const first = new URL(list.products[0].url);
    if (first.origin !== location.origin) throw new Error("the API names " + first.origin);
    show("api", true, list.products.length + " teas from " + new URL(api).host);
  })().catch((error) => show("api", false, error.message));

  json("/me")
    .then((me) => {
      if (!me.visit) throw new Error("the API did not get the visit cookie");
      show("cookie", true, me.user ? "signed in as " + me.user : "visit known to the API, not signed in");
    })
    .catch((error) => show("cookie", false, error.message));

  const socket = new WebSocket("wss://example.com/live");
  let echoed = false;
  socket.onopen = () => socket.send("你好");
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.echo) echoed = message.echo === "你好";
    if (echoed) show("ws", true, "echoed 你好" + (message.pours ? ", " + message.pours + " cups poured" : ""));
  };
  socket.onerror = () => show("ws", false, "no connection");

  const events = new EventSource("https://example.com/events");
  events.addEventListener("steam", (event) => {
    const steam = JSON.parse(event.data);
    show("sse", true, "cup " + steam.cup + " is " + new URL(steam.tea).pathname.split("/").pop() + " from " + new URL(steam.tea).host);
  });
  events.onerror = () => { if (events.readyState === EventSource.CLOSED) show("sse", false, "no stream"); };

  addEventListener("pagehide", () => { socket.close(); events.close(); });
})();
