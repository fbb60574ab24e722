// The three ways to publish many messages: each by itself and acknowledged later, a fast batch, atomic batches.
package main

import (
	"context"
	"encoding/json"
	"log"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

const (
	// Messages of an atomic batch; a server takes no more by default.
	atomicMax = 1000
	// Atomic batches under way at once; a server takes 50 of a stream.
	atomicAtOnce = 16
	// As many when there is less than a whole batch: while one is synced the next grows.
	atomicSmall = 1
	// Messages of a fast batch that one acknowledgement is for, and such groups under way at once.
	fastGroup  = 1000
	fastAtOnce = 8
)

type publisher interface {
	add(line []byte)
	// Nothing more is there at once.
	pause()
	// Returns when all is acknowledged.
	finish()
}

// Each message is acknowledged by itself.
type async struct {
	js     jetstream.JetStream
	stream string
}

func (a async) add(line []byte) {
	_, err := a.js.PublishAsync(a.stream, line, jetstream.WithStallWait(patience))
	check(err)
}

func (a async) pause() {}

func (a async) finish() {
	select {
	case <-a.js.PublishAsyncComplete():
	case <-time.After(patience):
		log.Fatalf("%d messages were not acknowledged", a.js.PublishAsyncPending())
	}
}

type fast struct {
	to     jetstreamext.FastPublisher
	stream string
}

func newFast(js jetstream.JetStream, stream string) fast {
	flow := jetstreamext.FastPublishFlowControl{Flow: fastGroup, MaxOutstandingAcks: fastAtOnce, AckTimeout: patience}
	to, err := jetstreamext.NewFastPublisher(js, flow)
	check(err)
	return fast{to, stream}
}

func (f fast) add(line []byte) {
	_, err := f.to.Add(f.stream, line)
	check(err)
}

func (f fast) pause() {}

func (f fast) finish() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := f.to.Close(ctx)
	check(err)
}

// Batches of which all or nothing is kept, and the server syncs once for each. By hand rather than with
// jetstreamext, which waits for one batch before it sends the next, or mixes their order up.
type atomic struct {
	nc      *nats.Conn
	stream  string
	acks    *nats.Subscription
	inbox   string
	waiting [][]byte
	atOnce  int
}

func newAtomic(nc *nats.Conn, stream string) *atomic {
	inbox := nc.NewInbox()
	acks, err := nc.SubscribeSync(inbox)
	check(err)
	return &atomic{nc: nc, stream: stream, acks: acks, inbox: inbox}
}

func (a *atomic) add(line []byte) {
	a.waiting = append(a.waiting, line)
	if len(a.waiting) == atomicMax {
		a.send(atomicAtOnce)
	}
}

func (a *atomic) pause() {
	if len(a.waiting) > 0 {
		a.send(atomicSmall)
	}
}

// Sends a batch once fewer than so many are under way.
func (a *atomic) send(most int) {
	for a.atOnce >= most {
		a.ack()
	}
	id := nuid.Next()
	for i, line := range a.waiting {
		header := nats.Header{
			jetstreamext.BatchIDHeader:  {id},
			jetstreamext.BatchSeqHeader: {strconv.Itoa(i + 1)},
		}
		msg := nats.Msg{Subject: a.stream, Header: header, Data: line}
		if i+1 == len(a.waiting) {
			header[jetstreamext.BatchCommitHeader] = []string{"1"}
			msg.Reply = a.inbox
		}
		check(a.nc.PublishMsg(&msg))
	}
	a.waiting = a.waiting[:0]
	a.atOnce++
}

func (a *atomic) finish() {
	a.pause()
	for a.atOnce > 0 {
		a.ack()
	}
}

func (a *atomic) ack() {
	msg, err := a.acks.NextMsg(patience)
	check(err)
	var ack struct {
		Error    json.RawMessage `json:"error"`
		Sequence uint64          `json:"seq"`
	}
	check(json.Unmarshal(msg.Data, &ack))
	if ack.Error != nil || ack.Sequence == 0 {
		log.Fatalf("a batch was not kept: %s", msg.Data)
	}
	a.atOnce--
}
