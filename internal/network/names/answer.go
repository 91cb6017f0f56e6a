package names

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// ttl of what we answer ourselves, in seconds. A machine may be gone any time.
const ttl = 1

// udpSize is the longest datagram we send and ask for, in bytes: it passes
// everywhere without fragments (dnsflagday.net/2020).
const udpSize = 1232

// answer says what r answers to q; nil is nothing. What has to be asked beyond
// is asked, on the limits of ctx, over a stream where the question came on one.
func (r *Resolver) answer(ctx context.Context, a asker, q *dns.Msg, stream bool) *dns.Msg {
	reply, beyond := r.local(a, q)
	if beyond {
		reply = r.forward(ctx, q, stream)
	}
	return reply
}

// local answers q from the table. beyond: it cannot, and the asker may ask
// beyond the stack.
func (r *Resolver) local(a asker, q *dns.Msg) (reply *dns.Msg, beyond bool) {
	if q.Response {
		return nil, false // answering answers would never end
	}
	opt := q.IsEdns0()
	switch {
	case q.Opcode != dns.OpcodeQuery:
		return refusal(q, dns.RcodeNotImplemented), false
	case len(q.Question) != 1:
		return refusal(q, dns.RcodeFormatError), false
	case q.Question[0].Qclass != dns.ClassINET:
		return refusal(q, dns.RcodeRefused), false
	case opt != nil && opt.Version() != 0:
		return refusal(q, dns.RcodeBadVers), false
	}
	name := strings.TrimSuffix(strings.ToLower(q.Question[0].Name), ".")
	f, outward := r.table.lookup(a, name)
	if addr, ok := reversed(name); ok {
		f, outward = r.table.reverse(a, addr)
	}
	switch {
	case !f.known && outward:
		return nil, true
	case !f.some:
		return nothing(q, dns.RcodeNameError), false
	}
	return records(q, f), false
}

// records puts what was found into an answer, in a new order each time.
func records(q *dns.Msg, f found) *dns.Msg {
	m, asked := begin(q), q.Question[0]
	head := func(kind uint16) dns.RR_Header {
		return dns.RR_Header{Name: asked.Name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
	}
	wants := func(kind uint16) bool { return asked.Qtype == kind || asked.Qtype == dns.TypeANY }
	rand.Shuffle(len(f.addrs), func(i, j int) { f.addrs[i], f.addrs[j] = f.addrs[j], f.addrs[i] })
	for _, a := range f.addrs {
		switch {
		case a.Is4() && wants(dns.TypeA):
			m.Answer = append(m.Answer, &dns.A{Hdr: head(dns.TypeA), A: a.AsSlice()})
		case a.Is6() && wants(dns.TypeAAAA):
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: head(dns.TypeAAAA), AAAA: a.AsSlice()})
		}
	}
	for _, n := range f.names {
		if wants(dns.TypePTR) {
			m.Answer = append(m.Answer, &dns.PTR{Hdr: head(dns.TypePTR), Ptr: dns.Fqdn(n)})
		}
	}
	if len(m.Answer) == 0 {
		return nothing(q, dns.RcodeSuccess) // the name is there, but no such record
	}
	return m
}

// begin is the frame of an answer to q, which has one question.
func begin(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	if q.IsEdns0() != nil {
		m.SetEdns0(udpSize, false)
	}
	return m
}

// nothing says that there is no such name, or no such record, and for how long
// that holds: RFC 2308.
func nothing(q *dns.Msg, rcode int) *dns.Msg {
	m := begin(q)
	m.Rcode = rcode
	m.Ns = []dns.RR{&dns.SOA{
		Hdr: dns.RR_Header{Name: Zone + ".", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
		Ns:  Zone + ".", Mbox: "hostmaster." + Zone + ".", Serial: 1, Refresh: ttl, Retry: ttl, Expire: ttl, Minttl: ttl,
	}}
	return m
}

// refusal answers what is no proper question.
func refusal(q *dns.Msg, rcode int) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(q, rcode)
	if rcode == dns.RcodeBadVers {
		m.SetEdns0(udpSize, false) // its upper bits are told there
	}
	return m
}

// reversed reads the address out of a name under in-addr.arpa or ip6.arpa.
func reversed(name string) (netip.Addr, bool) {
	if v4, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		parts := strings.Split(v4, ".")
		if len(parts) != 4 {
			return netip.Addr{}, false
		}
		var b [4]byte
		for i, p := range parts {
			n, err := strconv.ParseUint(p, 10, 8)
			if err != nil {
				return netip.Addr{}, false
			}
			b[3-i] = byte(n)
		}
		return netip.AddrFrom4(b), true
	}
	v6, ok := strings.CutSuffix(name, ".ip6.arpa")
	if parts := strings.Split(v6, "."); ok && len(parts) == 32 {
		var b [16]byte
		for i, p := range parts {
			n, err := strconv.ParseUint(p, 16, 4)
			if err != nil || len(p) != 1 {
				return netip.Addr{}, false
			}
			b[15-i/2] |= byte(n) << (4 * (i % 2))
		}
		return netip.AddrFrom16(b), true
	}
	return netip.Addr{}, false
}
