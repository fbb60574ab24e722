// A pipe over one WebSocket connection as people write it in Go in an afternoon: the yardstick
// for "what I would do by hand". Default buffers, one message a read, no resume, no half-close.
package main

import (
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"os"

	"github.com/gorilla/websocket"
)

func main() {
	listen := flag.String("listen", "", "address to listen on; received bytes go to stdout")
	connect := flag.String("connect", "", "ws:// URL to send stdin to")
	flag.Parse()
	if *listen != "" {
		serve(*listen)
	} else {
		send(*connect)
	}
}

func send(url string) {
	conn, _, err := websocket.DefaultDialer.Dial(url, nil)
	check(err)
	buf := make([]byte, 32*1024)
	for {
		n, err := os.Stdin.Read(buf)
		if n > 0 {
			check(conn.WriteMessage(websocket.BinaryMessage, buf[:n]))
		}
		if err == io.EOF {
			break
		}
		check(err)
	}
	bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	check(conn.WriteMessage(websocket.CloseMessage, bye))
	// The server's answer says that it has read everything before the close.
	_, _, err = conn.ReadMessage()
	if !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		log.Fatal(err)
	}
}

func serve(addr string) {
	var upgrader websocket.Upgrader
	ln, err := net.Listen("tcp", addr)
	check(err)
	log.Printf("listening on ws://%s", ln.Addr())
	check(http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		check(err)
		for {
			_, data, err := conn.ReadMessage()
			if websocket.IsCloseError(err, websocket.CloseNormalClosure) {
				os.Exit(0)
			}
			check(err)
			_, err = os.Stdout.Write(data)
			check(err)
		}
	})))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
