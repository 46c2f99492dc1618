// SPDX-License-Identifier: Apache-2.0
// net/http as a client of t/43-client-libraries.t: Hybrid::Library says what is asked and answered.
package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io/ioutil"
	"math/rand"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

type tally struct {
	sync.Mutex
	Answered int            `json:"answered"`
	Failed   map[string]int `json:"failed"`
}

func (t *tally) add(why string) {
	t.Lock()
	defer t.Unlock()
	if why == "" {
		t.Answered++
	} else {
		t.Failed[why]++
	}
}

func ask(client *http.Client, url string, post bool, protocol int) string {
	name := "GET "
	var response *http.Response
	var err error
	if post {
		name = "POST "
		response, err = client.Post(url, "text/plain", strings.NewReader(strings.Repeat("x", 500)))
	} else {
		response, err = client.Get(url)
	}
	if err != nil {
		text := err.Error()
		return name + text[strings.LastIndex(text, "\": ")+1:]
	}
	defer response.Body.Close()
	if _, err := ioutil.ReadAll(response.Body); err != nil {
		return name + err.Error()
	}
	if response.StatusCode != 200 || response.ProtoMajor != protocol {
		return name + response.Proto + " " + response.Status
	}
	return ""
}

func main() {
	url, protocol := os.Args[1], os.Args[2]
	clients, _ := strconv.Atoi(os.Args[3])
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, MaxIdleConnsPerHost: clients}
	major := 1
	if protocol == "h2" {
		major = 2
		transport.ForceAttemptHTTP2 = true
	}
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var count, pause int
		var seconds float64
		fmt.Sscan(lines.Text(), &count, &seconds, &pause)
		end := time.Now().Add(time.Duration(seconds * float64(time.Second)))
		result := tally{Failed: map[string]int{}}
		var all sync.WaitGroup
		for n := 0; n < clients; n++ {
			all.Add(1)
			go func(n int) {
				defer all.Done()
				for i := 0; i < count || time.Now().Before(end); i++ {
					result.add(ask(client, url, (i+n)%2 == 1, major))
					if pause > 0 {
						time.Sleep(time.Duration(rand.Intn(pause*1000)) * time.Microsecond)
					}
				}
			}(n)
		}
		all.Wait()
		json.NewEncoder(os.Stdout).Encode(&result)
	}
}
