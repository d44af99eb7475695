package cache

import "strings"

// explained says the reasons in words, and sections where they stand: in an RFC, or,
// where no RFC gives one, in the policy, the file or an order.
var explained = map[Reason]string{
	whyOff:          "it is off for this site or route",
	whyMethod:       "only GET and HEAD are looked up",
	whyBody:         "a GET with a body: the body is in no key",
	whyUpgrade:      "it asks for another protocol",
	whyOverride:     "it asks for another method than it has",
	whyPrecondition: "If-Match and If-Unmodified-Since are the origin's to evaluate",
	whyBypassCookie: "it has a cookie with which requests pass by",
	whyClosed:       "the cache is closed",

	whyAbsent:         "nothing is kept that the request selects",
	whyVaryMiss:       "what is kept was made for another request",
	whyPartial:        "the parts that are kept do not have these bytes",
	whyExpired:        "what is kept is stale",
	whyPurged:         "what is kept was purged softly",
	whyNoCache:        "no-cache: it is validated each time, and without a validator of no use",
	whyRequestControl: "the request wants it fresher, or validated",
	whyOnlyIfCached:   "the request wants no answer but a kept one",
	whyError:          "the origin failed",

	whyRequestNoStore: "the request says no-store",
	whyNoStore:        "it says no-store",
	whyMustUnderstand: "it says must-understand, and its status is not known here",
	whyPrivate:        "it says private: it is for one client",
	whyAuthorization:  "the request has Authorization or a client certificate, and the answer says neither public, s-maxage nor must-revalidate",
	whySetCookie:      "it sets a cookie, and says neither public nor s-maxage",
	whyStatus:         "its status is of one request alone",
	whyVaryAny:        "Vary: * is for no other request",
	whyTrailers:       "it has trailers",
	whyCoding:         "its body is not in the coding that its header says",
	whyTooLarge:       "it is larger than is kept",
	whyBadHeader:      "a field of its header could not be written again as it is",
	whyExtension:      "its type does not go with the extension of the path",
	whyBadRange:       "it is a part that could not be put beside others: of no strong entity tag, of several ranges, or of a coding",
	whyNoFreshness:    "nothing says how long it is fresh",
	whyNoRoom:         "the store has no room",
	whyHead:           "a HEAD has no body to keep",
	whyExpected:       "the last answer was for one request alone",
}

// detail is the reason as Cache-Status has it: the key of the file, where the owner
// has it so.
func (r Reason) detail() string {
	if key, ruled := strings.CutPrefix(sections[r], "policy "); ruled {
		return key
	}
	return string(r)
}

var sections = map[Reason]string{
	whyOff:          "policy cache: off",
	whyMethod:       "RFC 9111 §3",
	whyBody:         "RFC 9110 §9.3.1",
	whyOverride:     "RFC 9111 §4",
	whyUpgrade:      "RFC 9110 §7.8",
	whyPrecondition: "RFC 9111 §4.3.2",
	whyBypassCookie: "policy bypass_cookies",

	whyAbsent:         "RFC 9111 §4",
	whyVaryMiss:       "RFC 9111 §4.1",
	whyPartial:        "RFC 9111 §3.4",
	whyExpired:        "RFC 9111 §4.2.4",
	whyPurged:         "purge --soft",
	whyNoCache:        "RFC 9111 §5.2.2.4",
	whyRequestControl: "RFC 9111 §5.2.1",
	whyOnlyIfCached:   "RFC 9111 §5.2.1.7",
	whyError:          "RFC 5861 §4",

	whyRequestNoStore: "RFC 9111 §5.2.1.5",
	whyNoStore:        "RFC 9111 §5.2.2.5",
	whyMustUnderstand: "RFC 9111 §5.2.2.3",
	whyPrivate:        "RFC 9111 §5.2.2.7",
	whyAuthorization:  "RFC 9111 §3.5",
	whySetCookie:      "RFC 9111 §7.3",
	whyStatus:         "RFC 9111 §3",
	whyVaryAny:        "RFC 9111 §4.1",
	whyTrailers:       "RFC 9110 §6.5.1",
	whyCoding:         "RFC 9110 §8.4",
	whyBadHeader:      "RFC 9110 §5.5",
	whyTooLarge:       "cache: object_bytes",
	whyExtension:      "policy match_extension",
	whyBadRange:       "RFC 9111 §3.3",
	whyNoFreshness:    "RFC 9111 §4.2.1",
	whyNoRoom:         "cache: memory, disk",
	whyHead:           "RFC 9110 §9.3.2",
	whyExpected:       "RFC 9111 §3",
}
