"""The link lab: a robot that roams between two base stations, on network namespaces that are the lab's own.

            robot                       the air                   base stations              broker
    wl0  10.77.1.N/24  ---- TAP [ forwarder, 20 ms ] TAP ----  bs1  10.77.1.1 (NAT) --+
                                                                                      +-- 10.77.0.1  mosquitto, witness
    wl1  10.77.2.N/24  ---- TAP [ forwarder, 20 ms ] TAP ----  bs2  10.77.2.1 (NAT) --+

- The robot has an address and a default route on one of its two modems, wl0 to begin with.
- The forwarder is a process with a TAP at each end of each path. It holds each frame back for half a round trip, and
  loses frames when it is told to: after the sender's kernel has sent them, so that the sender notices nothing.
- The base stations forward only what comes from an address of theirs (BCP 38), and hide it behind one of their own
  where a fault says NAT. ARP passes at once and always: a modem has none.
- The witness subscribes beside the broker, where no fault reaches, and notes when each number arrives. The round trip
  of the next PUBACK ends half a round trip later; that half is added.

Nothing of this exists outside: when the lab's processes end, the kernel removes all of it. It needs root, or a kernel
that lets a user have namespaces, and /dev/net/tun.

    ./dev lab                                                  # the whole matrix with all peers
    ./dev lab --contenders roamd --clients 10 --repeat 3       # p95 of 30
    ./dev lab --faults handoff-0,reset --contenders roamd,gmqtt --json FILE
"""
