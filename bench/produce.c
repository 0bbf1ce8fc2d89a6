/* produce PORT TOPIC RECORDS TAIL: publishes so many records at QoS 1, as fast as the broker acknowledges them.

   Says "ready" when it is connected, begins when it has got a line, and says "done" after the last acknowledgement.
   TAIL is the JSON text of a record after its "seq". */

#include "mqtt.h"

#define MOST_IN_FLIGHT 1000

int main(int argc, char **argv) {
    if (argc != 5) {
        fputs("usage: produce PORT TOPIC RECORDS TAIL\n", stderr);
        return 64;
    }
    struct inbox in = {0};
    long limit = open_mqtt(&in, argv[1], "produce"), count = atol(argv[3]), sent = 0, acknowledged = 0;
    if (limit > MOST_IN_FLIGHT) limit = MOST_IN_FLIGHT;
    const char *topic = argv[2], *tail = argv[4];
    size_t topic_length = strlen(topic);
    puts("ready");
    fflush(stdout);
    if (getchar() == EOF) return 0;

    struct timespec wall;
    static uint8_t batch[MOST_IN_FLIGHT * 2048];
    while (acknowledged < count) {
        size_t used = 0;
        clock_gettime(CLOCK_REALTIME, &wall);
        for (; sent < count && sent - acknowledged < limit; sent++) {
            char payload[1024];
            size_t length = (size_t)snprintf(payload, sizeof payload, "{\"ts\":%lld,\"epoch\":1,\"seq\":%ld%s",
                                             wall.tv_sec * 1000LL + wall.tv_nsec / 1000000, sent + 1, tail);
            uint8_t *at = batch + used;
            *at++ = PUBLISH | 2;
            at += put_length(at, 2 + topic_length + 2 + 1 + length);
            *at++ = (uint8_t)(topic_length >> 8);
            *at++ = (uint8_t)topic_length;
            memcpy(at, topic, topic_length);
            at += topic_length;
            unsigned id = 1 + (unsigned)(sent % 60000);
            *at++ = (uint8_t)(id >> 8);
            *at++ = (uint8_t)id;
            *at++ = 0;
            memcpy(at, payload, length);
            used = (size_t)(at + length - batch);
        }
        if (used > 0) send_all(in.fd, batch, used);
        receive(&in);
        for (struct packet packet; next_packet(&in, &packet);) acknowledged += (packet.first & 0xf0) == PUBACK;
    }
    puts("done");
    fflush(stdout);
    while (getchar() != EOF) {}
    return 0;
}
