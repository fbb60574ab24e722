// The commands `pub` and `sub` for NATS JetStream, so that a broker is measured through programs of the same
// shape as farpipe's: lines of stdin become messages, messages become lines of stdout. Each does what
// NATS' own documentation calls fastest: acknowledgements are waited for by many messages at once.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"log"
	"os"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// How long nothing may come before this is an error rather than slow.
const patience = 2 * time.Minute

var (
	url    = flag.String("url", nats.DefaultURL, "the server")
	way    = flag.String("way", "async", "pub: async, fast (one fast batch) or atomic (atomic batches)")
	window = flag.Int("window", 65536, "pub: messages that may wait to be acknowledged")
	count  = flag.Int("count", 0, "sub: end after so many messages")
	pull   = flag.Int("pull", 10000, "sub: messages asked for at once")
)

func main() {
	log.SetFlags(0)
	flag.Parse()
	if flag.NArg() != 2 {
		log.Fatal("usage: nats-client [FLAGS] create | pub | sub STREAM")
	}
	verb, stream := flag.Arg(0), flag.Arg(1)
	nc, err := nats.Connect(*url)
	check(err)
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(*window),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) { log.Fatal(err) }))
	check(err)
	switch verb {
	case "create":
		create(js, stream)
	case "pub":
		pub(nc, js, stream)
		nc.Close()
	case "sub":
		sub(js, stream)
	default:
		log.Fatalf("no command %s", verb)
	}
}

// The stream and its only subject have the same name.
func create(js jetstream.JetStream, stream string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name:     stream,
		Subjects: []string{stream},
		Storage:  jetstream.FileStorage,
		// Both are off by default.
		AllowBatchPublish:  true,
		AllowAtomicPublish: true,
	})
	check(err)
}

// Ends with 0 when the server has acknowledged every line.
func pub(nc *nats.Conn, js jetstream.JetStream, stream string) {
	var to publisher
	switch *way {
	case "async":
		to = async{js, stream}
	case "fast":
		to = newFast(js, stream)
	case "atomic":
		to = newAtomic(nc, stream)
	default:
		log.Fatalf("no way %s", *way)
	}
	lines(os.Stdin, to)
	to.finish()
}

// Reads on while the publisher waits. What is read is never written over: a message that is not acknowledged
// yet may be sent once more.
func lines(from io.Reader, to publisher) {
	chunks := make(chan []byte, 4)
	go func() {
		defer close(chunks)
		for {
			chunk := make([]byte, 1<<20)
			n, err := from.Read(chunk)
			chunks <- chunk[:n]
			if errors.Is(err, io.EOF) {
				return
			}
			check(err)
		}
	}()
	var rest []byte
	for chunk := range chunks {
		rest = slices.Concat(rest, chunk)
		for {
			line, after, found := bytes.Cut(rest, []byte{'\n'})
			if !found {
				break
			}
			to.add(line)
			rest = after
		}
		if len(chunks) == 0 {
			to.pause()
		}
	}
}

// An ordered consumer: each message once and in order, none acknowledged, as `farpipe sub` reads.
func sub(js jetstream.JetStream, stream string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	consumer, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{})
	check(err)
	messages := make(chan []byte, *pull)
	_, err = consumer.Consume(func(msg jetstream.Msg) { messages <- msg.Data() },
		jetstream.PullMaxMessages(*pull))
	check(err)
	out := bufio.NewWriterSize(os.Stdout, 1<<18)
	for range *count {
		line := <-messages
		out.Write(line)
		out.WriteByte('\n')
		// Nobody waits for a full buffer.
		if len(messages) == 0 {
			check(out.Flush())
		}
	}
	check(out.Flush())
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
