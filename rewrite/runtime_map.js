// map exchanges the origin's host in a URL for the public one, with scheme and port, and leaves the
// rest to the letter. What is no such URL it gives back as it is. The rules are those of match.go and
// stream.go: exact goes before wildcard, the longest match wins, and a public host stays.
const names = new Map(); // "host:port" of both sides -> its pair
for (const pair of pairs) for (const side of pair) names.set(side.host + ":" + side.port, { pair, side });

const find = (host, port) => {
  for (let rest = host, star = ""; rest; star = "*.") {
    const found = names.get(star + rest + ":" + port);
    if (found) return { ...found, labels: host.slice(0, host.length - rest.length) };
    rest = rest.slice(rest.indexOf(".") + 1 || rest.length);
  }
};

const map = (text) => {
  const [start, space, scheme = "", slashes, authority] = /^([\s\0]*)(?:(https?|wss?):)?([\\/]{2})([^\\/?#]*)/i.exec(text) || [];
  if (!authority || authority.includes("@")) return text;
  let url;
  try {
    url = new URL((scheme || (location.protocol === "http:" ? "http" : "https")) + "://" + authority);
  } catch {
    return text; // it is for the browser to complain
  }
  const dot = /\.$/.test(authority) && text[start.length] !== "/" ? "." : ""; // before a slash or a port it goes
  const found = find(url.hostname.replace(/\.$/, ""), url.port);
  if (!found || found.side !== found.pair[0]) return text;
  const [from, to] = found.pair;
  const host = found.labels + to.host.replace("*.", "");
  if (find(host, to.port)?.side !== to) return text; // a more exact pair has that name
  const secure = /^(?:https|wss)$/i.test(scheme);
  const change = secure !== to.secure && (secure === from.secure || to.port);
  const written = change ? (/^w/i.test(scheme) ? "ws" : "http") + (to.secure ? "s" : "") : scheme;
  return space + (scheme && written + ":") + slashes + host + dot + (to.port && ":" + to.port) + text.slice(start.length);
};
