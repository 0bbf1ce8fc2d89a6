/* What the C programs of the benchmarks need of MQTT 5 (client side, blocking sockets, 127.0.0.1 only). */

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNACK = 0x20, PUBLISH = 0x30, PUBACK = 0x40, SUBACK = 0x90 };

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static inline double now(void) { /* the clock of Python's time.monotonic() */
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void send_all(int fd, const void *bytes, size_t length) {
    for (const char *at = bytes; length > 0;) {
        ssize_t sent = send(fd, at, length, MSG_NOSIGNAL);
        if (sent <= 0) fail("send");
        at += sent;
        length -= (size_t)sent;
    }
}

static inline size_t put_length(uint8_t *at, size_t length) { /* section 1.5.5 */
    size_t used = 0;
    do {
        at[used] = (uint8_t)(length % 128 | (length >= 128 ? 128 : 0));
        length /= 128;
        used++;
    } while (length > 0);
    return used;
}

/* What was received and not used yet. */
struct inbox {
    int fd;
    size_t begin, end, size;
    uint8_t *bytes;
};

struct packet {
    uint8_t first;
    uint8_t *body;
    size_t length;
};

static void receive(struct inbox *in) {
    memmove(in->bytes, in->bytes + in->begin, in->end - in->begin);
    in->end -= in->begin;
    in->begin = 0;
    if (in->end == in->size) in->bytes = realloc(in->bytes, in->size *= 2);
    ssize_t got = recv(in->fd, in->bytes + in->end, in->size - in->end, 0);
    if (got < 0) fail("recv");
    if (got == 0) {
        fputs("the broker closed the connection\n", stderr);
        exit(1);
    }
    in->end += (size_t)got;
}

/* Takes one whole packet out of the inbox; 0 where there is none. It is there until the next receive(). */
static int next_packet(struct inbox *in, struct packet *packet) {
    size_t at = in->begin + 1, length = 0;
    for (unsigned shift = 0;; shift += 7) {
        if (at >= in->end) return 0;
        uint8_t byte = in->bytes[at++];
        length |= (size_t)(byte & 127) << shift;
        if (byte < 128) break;
    }
    if (in->end - at < length) return 0;
    *packet = (struct packet){in->bytes[in->begin], in->bytes + at, length};
    in->begin = at + length;
    return 1;
}

static struct packet await_packet(struct inbox *in, uint8_t type) {
    struct packet packet;
    for (;;) {
        while (!next_packet(in, &packet)) receive(in);
        if ((packet.first & 0xf0) == type) return packet;
    }
}

static inline unsigned receive_maximum(const struct packet *connack) { /* section 3.2.2.3.3 */
    const uint8_t *at = connack->body + 3, *end = connack->body + connack->length;
    while (at < end) {
        switch (*at++) {
            case 0x21: return (unsigned)(at[0] << 8 | at[1]);
            case 0x11: case 0x27: at += 4; break;
            case 0x13: case 0x22: at += 2; break;
            case 0x24: case 0x25: case 0x28: case 0x29: case 0x2a: at += 1; break;
            default: at += 2 + (at[0] << 8 | at[1]); /* texts */
        }
    }
    return 65535;
}

/* Connects to the broker, and returns how many PUBLISH packets it takes before it has acknowledged one. */
static unsigned open_mqtt(struct inbox *in, const char *port, const char *client_id) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1;
    in->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(in->fd, (struct sockaddr *)&to, sizeof to) != 0) fail("connect");
    setsockopt(in->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    in->bytes = malloc(in->size = 1 << 18);
    /* Clean Start, keep alive 1 h, Receive Maximum 65535. */
    uint8_t hello[128] = {0x10, 0, 0, 4, 'M', 'Q', 'T', 'T', 5, 2, 14, 16, 3, 0x21, 0xff, 0xff, 0};
    size_t length = strlen(client_id);
    hello[1] = (uint8_t)(16 + length);
    hello[17] = (uint8_t)length;
    memcpy(hello + 18, client_id, length);
    send_all(in->fd, hello, 18 + length);
    struct packet connack = await_packet(in, CONNACK);
    if (connack.body[1] != 0) {
        fprintf(stderr, "the broker refused the connection: 0x%02x\n", connack.body[1]);
        exit(1);
    }
    return receive_maximum(&connack);
}
