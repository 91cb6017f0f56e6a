package agentproto

import (
	"context"

	"github.com/vzcompose/vzcompose/internal/wire"
)

// Agent is what answers the host: internal/guest in a machine, and a fake.
type Agent interface {
	Setup(context.Context, Setup) (SetupResult, error)
	Start(context.Context, Start) (Started, error)
	Go(context.Context, Go) (Started, error)
	Signal(context.Context, Signal) (Empty, error)
	Wait(context.Context, Wait) (Exit, error)
	Release(context.Context, Release) (Empty, error)
	Reset(context.Context, Reset) (Empty, error)
	PowerOff(context.Context, PowerOff) (Empty, error)
	Log(context.Context, Empty) (Log, error)
	Resize(context.Context, Resize) (Empty, error)
	Clock(context.Context, Clock) (Empty, error)
	Stats(context.Context, Empty) (Stats, error)
	Top(context.Context, Empty) (Top, error)
	Stat(context.Context, Stat) (FileInfo, error)
	Read(context.Context, Read) (Empty, error)
	Write(context.Context, Write) (Empty, error)
	Relay(context.Context, Relay) (Empty, error)
	Unrelay(context.Context, Unrelay) (Empty, error)
}

// NewServer is the skeleton of the agent's side: it answers a's methods and
// gives streams to open. greet is told of each control connection and how to
// send it notices (NoticeExit).
func NewServer(a Agent, build string, open func(token string, s *wire.Stream) error,
	greet func(ctx context.Context, notify func(topic string, body any) error)) *wire.Server {
	return &wire.Server{
		Protocol: Protocol,
		Version:  Version,
		Build:    build,
		Open:     open,
		Greet:    greet,
		Methods: map[string]wire.Method{
			MethodSetup:    wire.Handle(a.Setup),
			MethodStart:    wire.Handle(a.Start),
			MethodGo:       wire.Handle(a.Go),
			MethodSignal:   wire.Handle(a.Signal),
			MethodWait:     wire.Handle(a.Wait),
			MethodRelease:  wire.Handle(a.Release),
			MethodReset:    wire.Handle(a.Reset),
			MethodPowerOff: wire.Handle(a.PowerOff),
			MethodLog:      wire.Handle(a.Log),
			MethodResize:   wire.Handle(a.Resize),
			MethodClock:    wire.Handle(a.Clock),
			MethodStats:    wire.Handle(a.Stats),
			MethodTop:      wire.Handle(a.Top),
			MethodStat:     wire.Handle(a.Stat),
			MethodRead:     wire.Handle(a.Read),
			MethodWrite:    wire.Handle(a.Write),
			MethodRelay:    wire.Handle(a.Relay),
			MethodUnrelay:  wire.Handle(a.Unrelay),
		},
	}
}
