// SPDX-License-Identifier: GPL-2.0

// A program that lives from what the runtime of Go has: threads, epoll, an
// eventfd, a pipe, timers, channels.  It counts in all of them, and ends with a
// result if it finds that it is a replica, or is told to.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"time"
)

const rounds = 100

// The PID that /proc shows, also in a PID namespace below.  It is read without a
// position: until the file is closed, a replica has the same one.
func pid() string {
	file, err := os.Open("/proc/self/stat")
	if err != nil {
		return "?"
	}
	defer file.Close()
	text := make([]byte, 4096)
	n, _ := file.ReadAt(text, 0)
	return strings.Fields(string(text[:n]))[0]
}

func end(dir, result string) {
	os.WriteFile(dir+"/new."+pid(), []byte(result), 0o600)
	os.Rename(dir+"/new."+pid(), dir+"/result."+pid())
	if result != "ok" {
		os.Exit(1)
	}
	os.Exit(0)
}

func main() {
	dir, first := os.Args[1], pid()
	in, out, err := os.Pipe()
	if err != nil {
		end(dir, err.Error())
	}
	numbers := make(chan int)
	squares := make(chan int, 3)

	// Through a pipe, as lines ...
	go func() {
		for n := 0; ; n++ {
			fmt.Fprintln(out, n)
		}
	}()
	go func() {
		lines := bufio.NewScanner(in)
		for lines.Scan() {
			var n int
			fmt.Sscan(lines.Text(), &n)
			numbers <- n
		}
		end(dir, "the pipe has ended")
	}()
	// ... and a channel
	go func() {
		for n := range numbers {
			squares <- n * n
		}
	}()

	ticker := time.NewTicker(2 * time.Millisecond)
	left := -1
	for n := 0; ; n++ {
		select {
		case square := <-squares:
			if square != n*n {
				end(dir, fmt.Sprintf("%d in place of %d", square, n*n))
			}
		case <-time.After(50 * time.Second):
			end(dir, "nothing came")
		}
		<-ticker.C
		if n == rounds {
			os.WriteFile(dir+"/ready", nil, 0o600)
		}
		_, err := os.Stat(dir + "/stop")
		if left < 0 && (pid() != first || err == nil) {
			left = rounds
		}
		if left == 0 {
			end(dir, "ok")
		}
		if left > 0 {
			left--
		}
	}
}
