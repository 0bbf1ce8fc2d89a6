/* count PORT FILTER RECORDS QOS: subscribes, and counts the records that come, alone or in arrays.

   Says "ready" when it is subscribed, "complete {...}" once RECORDS different ones have come, and "end {...}" when its
   standard input is closed. A record is named by its topic (without /backfill), "epoch" and "seq". */

#define _GNU_SOURCE
#include <poll.h>

#include "mqtt.h"

#define MOST_STREAMS 64
#define NAME 200

struct stream { /* one stream in one epoch: which seq have come */
    char name[NAME];
    long epoch;
    uint8_t *seen;
    size_t size;
};

struct lane { /* one topic in one epoch: fresh or backfill */
    char topic[NAME];
    long epoch, last_seq;
    struct stream *stream;
};

static struct stream streams[MOST_STREAMS];
static struct lane lanes[MOST_STREAMS];
static int stream_count, lane_count;
static long packets, records, distinct, doubled, disordered;
static double first, last;

static struct stream *stream_of(const char *name, long epoch) {
    for (int i = 0; i < stream_count; i++)
        if (streams[i].epoch == epoch && strcmp(streams[i].name, name) == 0) return &streams[i];
    if (stream_count == MOST_STREAMS) fail("too many streams");
    struct stream *new = &streams[stream_count++];
    new->epoch = epoch;
    strcpy(new->name, name);
    return new;
}

static struct lane *lane_of(const char *topic, size_t length, long epoch) {
    for (int i = 0; i < lane_count; i++)
        if (lanes[i].epoch == epoch && strlen(lanes[i].topic) == length && memcmp(lanes[i].topic, topic, length) == 0)
            return &lanes[i];
    if (lane_count == MOST_STREAMS || length >= NAME) fail("too many topics");
    struct lane *new = &lanes[lane_count++];
    memcpy(new->topic, topic, length);
    new->epoch = epoch;
    char name[NAME];
    strcpy(name, new->topic);
    char *backfill = strstr(name, "/backfill");
    if (backfill) *backfill = 0;
    new->stream = stream_of(name, epoch);
    return new;
}

static void count_one(struct lane *lane, long seq) {
    struct stream *stream = lane->stream;
    records++;
    if ((size_t)seq / 8 >= stream->size) {
        size_t size = (size_t)seq / 4 + 4096;
        stream->seen = realloc(stream->seen, size);
        memset(stream->seen + stream->size, 0, size - stream->size);
        stream->size = size;
    }
    uint8_t *byte = &stream->seen[seq / 8], bit = (uint8_t)(1 << seq % 8);
    if (*byte & bit) {
        doubled++;
        return;
    }
    *byte |= bit;
    distinct++;
    if (seq < lane->last_seq) disordered++;
    lane->last_seq = seq;
    last = now();
    if (first == 0) first = last;
}

static long number_after(const uint8_t **at, const uint8_t *end, const char *key) {
    const uint8_t *found = memmem(*at, (size_t)(end - *at), key, strlen(key));
    if (found == NULL) return -1;
    *at = found + strlen(key);
    if (*at < end && **at == ' ') ++*at;
    long number = 0;
    while (*at < end && **at >= '0' && **at <= '9') number = number * 10 + *(*at)++ - '0';
    return number;
}

static void count_packet(const struct packet *packet, uint8_t *puback, size_t *pubacks) {
    const uint8_t *at = packet->body, *end = packet->body + packet->length;
    size_t topic_length = (size_t)(at[0] << 8 | at[1]);
    const char *topic = (const char *)at + 2;
    at += 2 + topic_length;
    packets++;
    if (packet->first & 6) {
        uint8_t answer[] = {0x40, 2, at[0], at[1]};
        memcpy(puback + *pubacks, answer, sizeof answer);
        *pubacks += sizeof answer;
    }
    struct lane *lane = NULL;
    for (long epoch; (epoch = number_after(&at, end, "\"epoch\":")) >= 0;) {
        long seq = number_after(&at, end, "\"seq\":");
        if (lane == NULL || lane->epoch != epoch) lane = lane_of(topic, topic_length, epoch);
        if (seq >= 0) count_one(lane, seq);
    }
}

static void say(const char *what) {
    printf("%s {\"packets\":%ld,\"records\":%ld,\"distinct\":%ld,\"doubled\":%ld,\"disordered\":%ld,"
           "\"first\":%.6f,\"last\":%.6f}\n", what, packets, records, distinct, doubled, disordered, first, last);
    fflush(stdout);
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fputs("usage: count PORT FILTER RECORDS QOS\n", stderr);
        return 64;
    }
    struct inbox in = {0};
    open_mqtt(&in, argv[1], "count");
    uint8_t subscribe[256] = {0x82, 0, 0, 1, 0, 0};
    size_t length = strlen(argv[2]);
    subscribe[1] = (uint8_t)(6 + length);
    subscribe[6] = (uint8_t)length;
    memcpy(subscribe + 7, argv[2], length);
    subscribe[7 + length] = (uint8_t)atoi(argv[4]);
    send_all(in.fd, subscribe, 8 + length);
    await_packet(&in, SUBACK);
    puts("ready");
    fflush(stdout);

    long expected = atol(argv[3]);
    static uint8_t puback[1 << 20];
    struct pollfd watched[] = {{.fd = in.fd, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
    while (poll(watched, 2, -1) >= 0) {
        if (watched[0].revents) {
            struct packet packet;
            size_t pubacks = 0;
            long before = distinct;
            receive(&in);
            while (pubacks < sizeof puback - 4 && next_packet(&in, &packet))
                if ((packet.first & 0xf0) == PUBLISH) count_packet(&packet, puback, &pubacks);
            if (pubacks > 0) send_all(in.fd, puback, pubacks);
            if (before < expected && distinct >= expected) say("complete");
        }
        if (watched[1].revents) {
            char rest[64];
            if (read(0, rest, sizeof rest) <= 0) break;
        }
    }
    say("end");
    return 0;
}
