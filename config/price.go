package config

import (
	"errors"
	"math"
	"reflect"
	"strconv"

	"go.yaml.in/yaml/v4"
)

// Known says whether anything has a price; nothing of a nil Price has.
func (p *Price) Known() bool { return p != nil && (p.PerMbpsMonth > 0 || p.PerGB > 0) }

// ByRate is what a month costs whose busiest five minutes had so many bits a
// second.
func (p *Price) ByRate(bitsPerSecond float64) float64 {
	return float64(p.PerMbpsMonth) * bitsPerSecond / 1e6
}

// ByBytes is what so many bytes cost.
func (p *Price) ByBytes(bytes float64) float64 { return float64(p.PerGB) * bytes / 1e9 }

// Money is an amount, not below zero, with or without a fraction.
type Money float64

// mostMoney is more than a line costs in any currency.
const mostMoney = 1e12

var errMoney = errors.New("not an amount")

func parseMoney(s string) (Money, error) {
	amount, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(amount) || amount < 0 || amount > mostMoney {
		return 0, errMoney
	}
	return Money(amount), nil
}

func (d *decoder) money(n *yaml.Node, p *Money, tag reflect.StructTag, path string) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" && n.ShortTag() != "!!float" {
		d.mistyped(n, reflect.TypeFor[Money](), tag, path)
		return
	}
	amount, err := parseMoney(n.Value)
	if err != nil {
		d.report.value(path, "write an amount such as 120 or 0.8", "%s is no price", n.Value)
		return
	}
	*p = amount
}

// checkPrice looks at the price of a link.
func checkPrice(r *report, at string, p *Price) {
	if p == nil || !r.good(at) {
		return
	}
	if !p.Known() && r.good(at+".per_mbps_month") && r.good(at+".per_gb") {
		r.value(at, "add per_mbps_month or per_gb", "nothing has a price")
	}
	capitals := len(p.Currency) == 3
	for _, letter := range p.Currency {
		capitals = capitals && 'A' <= letter && letter <= 'Z'
	}
	if !capitals && r.good(at+".currency") {
		r.value(at+".currency", "write three capital letters (ISO 4217), such as CNY or USD", "%q is no currency", p.Currency)
	}
}
