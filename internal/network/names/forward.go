package names

import (
	"context"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Bounds of asking beyond the stack.
const (
	askOne  = 2 * time.Second // one of the host's resolvers
	askAll  = 5 * time.Second // what an asker waits for, as libraries do
	servers = 3               // of the host's that are asked: resolv.conf(5)
)

// forward asks the host's resolvers. The question is made anew: nothing of the
// asker's message but what it wants to know leaves the host.
func (r *Resolver) forward(ctx context.Context, q *dns.Msg, stream bool) *dns.Msg {
	ctx, cancel := context.WithTimeout(ctx, askAll)
	defer cancel()
	asked := q.Question[0]
	m := new(dns.Msg)
	m.SetQuestion(asked.Name, asked.Qtype)
	m.CheckingDisabled = q.CheckingDisabled
	opt := q.IsEdns0()
	m.SetEdns0(udpSize, opt != nil && opt.Do())
	got, err := r.up.exchange(ctx, m, stream)
	if err != nil {
		return refusal(q, dns.RcodeServerFailure)
	}
	reply := begin(q)
	reply.Rcode, reply.Truncated = got.Rcode, got.Truncated
	reply.AuthenticatedData, reply.CheckingDisabled = got.AuthenticatedData, q.CheckingDisabled
	reply.Answer, reply.Ns = got.Answer, got.Ns
	for _, rr := range got.Extra {
		if rr.Header().Rrtype != dns.TypeOPT { // it is between two neighbours
			reply.Extra = append(reply.Extra, rr)
		}
	}
	if opt != nil && opt.Do() {
		reply.IsEdns0().SetDo()
	}
	return reply
}

// upstream is the host's resolvers, as its resolv.conf names them now.
type upstream struct {
	path string
	port string // of the servers; "": as the file says

	mu      sync.Mutex // guards the following
	read    os.FileInfo
	servers []string // host:port
}

// exchange asks one server after the other, until one answers.
func (u *upstream) exchange(ctx context.Context, m *dns.Msg, stream bool) (*dns.Msg, error) {
	all, err := u.list()
	if err != nil {
		return nil, err
	}
	err = errs.New(errs.Unavailable, "no nameserver in %s", u.path)
	for _, server := range all {
		var got *dns.Msg
		if got, err = ask(ctx, server, m, stream); err == nil && got.Rcode != dns.RcodeRefused {
			return got, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

func ask(ctx context.Context, server string, m *dns.Msg, stream bool) (*dns.Msg, error) {
	c := dns.Client{Net: "udp", Timeout: askOne, UDPSize: udpSize}
	if stream {
		c.Net = "tcp"
	}
	m.Id = dns.Id()
	got, _, err := c.ExchangeContext(ctx, m, server)
	if err != nil {
		return nil, err
	}
	if !got.Response || len(got.Question) != 1 || got.Question[0].Qtype != m.Question[0].Qtype ||
		!strings.EqualFold(got.Question[0].Name, m.Question[0].Name) {
		return nil, errs.New(errs.DataLoss, "%s answered another question", server)
	}
	return got, nil
}

// list answers the servers, read anew where the file has changed.
func (u *upstream) list() ([]string, error) {
	now, err := os.Stat(u.path)
	if err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.read != nil && os.SameFile(now, u.read) && now.ModTime().Equal(u.read.ModTime()) && now.Size() == u.read.Size() {
		return u.servers, nil
	}
	c, err := dns.ClientConfigFromFile(u.path)
	if err != nil {
		return nil, errs.New(errs.Unavailable, "read the host's resolvers: %w", err)
	}
	port := u.port
	if port == "" {
		port = c.Port
	}
	u.read, u.servers = now, nil
	for _, s := range c.Servers[:min(len(c.Servers), servers)] {
		u.servers = append(u.servers, net.JoinHostPort(s, port))
	}
	return u.servers, nil
}
