// Pub/Sub's own fake server, as its client library's tests use it, on a port that others can reach.
package main

import (
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"cloud.google.com/go/pubsub/v2/pstest"
)

// Where it listens, unless it is told another address.
const address = ":8085"

func main() {
	if len(os.Args) > 1 && os.Args[1] == "check" {
		// Its image has no shell: this is what looks whether it is well.
		connection, err := net.DialTimeout("tcp", "127.0.0.1"+address, time.Second)
		if err != nil {
			log.Fatal(err)
		}
		connection.Close()
		return
	}
	where := address
	if len(os.Args) > 1 {
		where = os.Args[1]
	}
	server := pstest.NewServerWithAddress(where)
	defer server.Close()
	log.Printf("Pub/Sub at %s", server.Addr)
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	<-end
}
