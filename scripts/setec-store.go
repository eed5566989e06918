// Prints a secret as setec's own client library gives it, then, once polling brings another value, that one.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/tailscale/setec/client/setec"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	name := os.Args[2]
	store, err := setec.NewStore(ctx, setec.StoreConfig{
		Client:       setec.Client{Server: os.Args[1]},
		Secrets:      []string{name},
		PollInterval: 200 * time.Millisecond,
		Logf:         func(string, ...any) {},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer store.Close()
	secret := store.Secret(name)
	first := secret.GetString()
	fmt.Println(first)
	for secret.GetString() == first {
		if ctx.Err() != nil {
			os.Exit(1)
		}
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Println(secret.GetString())
}
