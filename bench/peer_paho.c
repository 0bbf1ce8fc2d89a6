/* peer_paho PORT TOPIC RECORDS TAIL: Paho C (MQTTAsync), from memory; talks as produce does. */

#include <MQTTAsync.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MOST_IN_FLIGHT 1000

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t moved = PTHREAD_COND_INITIALIZER;
static long outstanding, limit = MOST_IN_FLIGHT;

static void set(long change) {
    pthread_mutex_lock(&lock);
    outstanding += change;
    pthread_cond_signal(&moved);
    pthread_mutex_unlock(&lock);
}

static void await_below(long number) {
    pthread_mutex_lock(&lock);
    while (outstanding >= number) pthread_cond_wait(&moved, &lock);
    pthread_mutex_unlock(&lock);
}

static void acknowledged(void *context, MQTTAsync_successData5 *data) {
    (void)context, (void)data;
    set(-1);
}

static void connected(void *context, MQTTAsync_successData5 *data) {
    int allowed = MQTTProperties_getNumericValue(&data->properties, MQTTPROPERTY_CODE_RECEIVE_MAXIMUM);
    if (allowed > 0 && allowed < limit) limit = allowed;
    acknowledged(context, data);
}

static void failed(void *context, MQTTAsync_failureData5 *data) {
    fprintf(stderr, "%s failed: %d\n", (const char *)context, data ? data->code : 0);
    exit(1);
}

int main(int argc, char **argv) {
    if (argc != 5) return 64;
    char url[64];
    snprintf(url, sizeof url, "tcp://127.0.0.1:%s", argv[1]);
    MQTTAsync client;
    MQTTAsync_createOptions create = MQTTAsync_createOptions_initializer5;
    create.maxBufferedMessages = MOST_IN_FLIGHT;
    MQTTAsync_createWithOptions(&client, url, "bench", MQTTCLIENT_PERSISTENCE_NONE, NULL, &create);
    MQTTAsync_connectOptions hello = MQTTAsync_connectOptions_initializer5;
    hello.maxInflight = MOST_IN_FLIGHT;
    hello.onSuccess5 = connected;
    hello.onFailure5 = failed;
    hello.context = "connect";
    set(1);
    if (MQTTAsync_connect(client, &hello) != MQTTASYNC_SUCCESS) return 1;
    await_below(1);
    puts("ready");
    fflush(stdout);
    if (getchar() == EOF) return 0;

    MQTTAsync_responseOptions answer = MQTTAsync_responseOptions_initializer;
    answer.onSuccess5 = acknowledged;
    answer.onFailure5 = failed;
    answer.context = "publish";
    for (long seq = 1, count = atol(argv[3]); seq <= count; seq++) {
        struct timespec wall;
        char payload[1024];
        clock_gettime(CLOCK_REALTIME, &wall);
        int length = snprintf(payload, sizeof payload, "{\"ts\":%lld,\"epoch\":1,\"seq\":%ld%s",
                              wall.tv_sec * 1000LL + wall.tv_nsec / 1000000, seq, argv[4]);
        await_below(limit);
        set(1);
        int code = MQTTAsync_send(client, argv[2], length, payload, 1, 0, &answer);
        if (code != MQTTASYNC_SUCCESS) {
            fprintf(stderr, "cannot publish: %d\n", code);
            return 1;
        }
    }
    await_below(1);
    puts("done");
    fflush(stdout);
    while (getchar() != EOF) {}
    return 0;
}
