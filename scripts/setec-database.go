// Makes, shows and goes on with a database file of setec's, by setec's own code.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/tailscale/setec/acl"
	"github.com/tailscale/setec/audit"
	"github.com/tailscale/setec/db"
	"github.com/tailscale/setec/types/api"
	"github.com/tink-crypto/tink-go/v2/aead/subtle"
)

var all = db.Caller{
	Principal: audit.Principal{User: "flynn"},
	Permissions: acl.Rules{{
		Action: []acl.Action{"get", "info", "put", "create-version", "activate", "delete"},
		Secret: []acl.Secret{"*"},
	}},
}

func main() {
	verb, path, keyFile := os.Args[1], os.Args[2], os.Args[3]
	key, err := os.ReadFile(keyFile)
	check(err)
	kek, err := subtle.NewXChaCha20Poly1305(key)
	check(err)
	d, err := db.Open(path, kek, audit.New(nopCloser{io.Discard}))
	check(err)
	switch verb {
	case "write":
		write(d)
	case "show":
		show(d)
	case "continue":
		goOn(d)
	}
}

func write(d *db.DB) {
	put := func(name, value string) {
		_, err := d.Put(all, name, []byte(value))
		check(err)
	}
	put("leger/local/many", "one")
	put("leger/local/many", "two")
	put("leger/local/many", "three")
	check(d.CreateVersion(all, "leger/local/many", 7, []byte("seven")))
	put("leger/local/many", "eight")
	check(d.Activate(all, "leger/local/many", 2))
	check(d.DeleteVersion(all, "leger/local/many", 3))
	check(d.DeleteVersion(all, "leger/local/many", 8))
	put("empty", "")
	put("binary", "\x00\xff\x0a")
	put(`odd & <names>/ä "\ 日本`, "x")
	put("__proto__", "y")
	put("10", "a number")
	check(d.CreateVersion(all, "last", 4294967295, []byte("z")))
	put("gone", "w")
	check(d.Delete(all, "gone"))
}

func show(d *db.DB) {
	infos, err := d.List(all)
	check(err)
	for _, info := range infos {
		line, err := json.Marshal(info)
		check(err)
		fmt.Println(string(line))
		for _, version := range info.Versions {
			value, err := d.GetVersion(all, info.Name, version)
			check(err)
			fmt.Printf("  %d %x\n", version, value.Value)
		}
	}
}

func goOn(d *db.DB) {
	for version := api.SecretVersion(1); version < 12; version++ {
		err := d.CreateVersion(all, "leger/local/many", version, []byte("again"))
		fmt.Println(version, err)
	}
	for _, name := range []string{"leger/local/many", "empty", "gone"} {
		version, err := d.Put(all, name, []byte("new"))
		fmt.Println(name, version, err)
	}
	show(d)
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
