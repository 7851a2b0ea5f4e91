/* dns_load ADDRESS NAMES SECONDS WINDOW: how many queries a second a DNS server answers.
 *
 * NAMES: a file with a name on each line, asked in turns (type A). WINDOW queries are under way at a
 * time, as of so many clients: each answer is followed by the next question. One that is not
 * answered within 100 ms is counted as lost and asked no more. Prints answers per second, those with
 * an address in them, and what was lost.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 20000, LONGEST = 300, BATCH = 32 };

static unsigned char query[MOST][LONGEST];
static size_t length[MOST];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int loaded(const char *path) {
    FILE *file = fopen(path, "r");
    char line[256];
    int count = 0;
    while (file && count < MOST && fgets(line, sizeof line, file)) {
        unsigned char *q = query[count];
        line[strcspn(line, "\n")] = 0;
        memcpy(q, "\0\0\1\0\0\1\0\0\0\0\0\0", 12);
        size_t at = 12;
        for (char *rest, *label = strtok_r(line, ".", &rest); label;
             label = strtok_r(NULL, ".", &rest)) {
            size_t size = strlen(label);
            q[at++] = size;
            memcpy(q + at, label, size);
            at += size;
        }
        memcpy(q + at, "\0\0\1\0\1", 5);
        length[count++] = at + 5;
    }
    return count;
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    int names = loaded(argv[2]), window = atoi(argv[4]), fd = socket(AF_INET, SOCK_DGRAM, 0);
    double seconds = atof(argv[3]);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(53)};
    inet_pton(AF_INET, argv[1], &to.sin_addr);
    if (!names || connect(fd, (void *)&to, sizeof to)) return 1;
    static unsigned char answers[BATCH][2048];
    struct iovec parts[BATCH];
    struct mmsghdr many[BATCH];
    memset(many, 0, sizeof many);
    for (int i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){answers[i], sizeof answers[i]};
        many[i].msg_hdr = (struct msghdr){.msg_iov = parts + i, .msg_iovlen = 1};
    }
    unsigned sent = 0;
    long answered = 0, right = 0, lost = 0;
    double began = now(), end = began + seconds;
    for (int due = window; now() < end;) {
        for (; due > 0; due--, sent++) {
            unsigned char *q = query[sent % names];
            q[0] = sent >> 8, q[1] = sent;
            if (send(fd, q, length[sent % names], 0) < 0) break;
        }
        struct pollfd look = {fd, POLLIN, 0};
        if (poll(&look, 1, 100) <= 0) {
            lost += window - due;
            due = window;
            continue;
        }
        int got = recvmmsg(fd, many, BATCH, MSG_DONTWAIT, NULL);
        for (int i = 0; i < got; i++) {
            answered++;
            right += many[i].msg_len > 12 && !(answers[i][3] & 15) && answers[i][7];
        }
        due += got > 0 ? got : 0;
    }
    printf("%.0f %ld %ld %ld\n", answered / (now() - began), answered, right, lost);
    return 0;
}
