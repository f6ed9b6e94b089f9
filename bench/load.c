/* The clients: a closed loop of C connections, each of which sends its next request when the response has arrived.
 *
 *     load -p PORT [-b BODY_FILE] [-u PATH] [-H "Name: value"]... [-f TARGETS] [-c CONNECTIONS] [-t SECONDS] [-n REQUESTS]
 *          [-r RAMP] [-m MARK]
 *
 * With BODY_FILE it sends POSTs of JSON, without one GETs. With MARK all bodies differ: the text MARK in BODY_FILE is
 * replaced with a number of NUMBER_DIGITS digits, which continues in the next run.
 * TARGETS is a file with one `PATH<tab>Name: value` per line: requests go to each in turn, with that header (many accounts).
 * Connections are opened over RAMP seconds (0: at once).
 * Starts requests for SECONDS, or until REQUESTS were sent, and then waits at most DRAIN_SECONDS for those in flight.
 * A response is good if its status is 200, all of its length or its last chunk has arrived and, for a stream of events,
 * `data: [DONE]` came last. Prints one line of JSON with the results; the exit status is 0 if every response was good.
 *
 * One thread, epoll, keep-alive, loopback only. The percentiles include the times of good responses only. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 16384, HEAD_MAX = 32768, STATUS_MAX = 600, DRAIN_SECONDS = 15, TAIL = 16, NUMBER_DIGITS = 16 };

enum state { IDLE, HEAD, BODY, CHUNK_SIZE, CHUNK_DATA, CHUNK_CRLF, TRAILER, TO_CLOSE };

struct connection {
    int fd;
    enum state state;
    char head[HEAD_MAX];
    size_t head_len, line_len;   /* line: a chunk's size, or a trailer */
    unsigned long left;          /* bytes of the body, or of the chunk */
    unsigned long size;          /* the chunk's, while it is read */
    int status, is_events, closes;
    char tail[TAIL];             /* the last bytes of the body, which must be [DONE] */
    char last;                   /* the byte before */
    long events, sent_at, first_at;
};

struct text {
    char *at;
    size_t len;
    char *number;                /* its place, if there is one */
};

struct times {
    float *ms;
    long count, room;
};

static struct connection connections[CONNECTIONS_MAX];
static struct text *requests;
static long n_requests, most = 1L << 60, started, ended, good, bad, broken, refused, events, body_bytes;
static long statuses[STATUS_MAX];
static struct times whole, first;
static int poller, port, stopping;
static unsigned long last_number; /* starts at the time in µs, so that runs do not overlap */

static long now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

static void keep(struct times *t, long us) {
    if (t->count == t->room) {
        t->room = t->room ? t->room * 2 : 65536;
        t->ms = realloc(t->ms, t->room * sizeof *t->ms);
        if (!t->ms) abort();
    }
    t->ms[t->count++] = us / 1000.0f;
}

/* --- sending ------------------------------------------------------------------------------------------------------ */

static int connect_to(struct connection *c) {
    int yes = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (void *)&a, sizeof a)) {
        close(c->fd);
        c->fd = -1;
        return 0;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &e);
    return 1;
}

static void write_number(char *to) {
    unsigned long rest = ++last_number;
    for (int digit = NUMBER_DIGITS - 1; digit >= 0; digit--, rest /= 10) to[digit] = '0' + rest % 10;
}

static void send_next(struct connection *c) { /* a blocking send: a request is small */
    c->state = IDLE;
    if (stopping || started >= most) return;
    if (c->fd < 0 && !connect_to(c)) {
        refused++;
        return;
    }
    struct text *r = &requests[started++ % n_requests];
    c->state = HEAD;
    c->head_len = c->line_len = 0;
    c->status = c->is_events = c->closes = 0;
    memset(c->tail, 0, TAIL);
    c->last = 0;
    c->events = c->first_at = 0;
    if (r->number) write_number(r->number);
    c->sent_at = now_us();
    for (size_t off = 0; off < r->len;) {
        ssize_t n = send(c->fd, r->at + off, r->len - off, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR) return; /* the next read fails too */
        if (n > 0) off += n;
    }
}

static void end(struct connection *c, int complete) {
    static const char DONE[] = "data: [DONE]\n\n";
    long now = now_us();
    int done = !memcmp(c->tail + TAIL - (sizeof DONE - 1), DONE, sizeof DONE - 1);
    ended++;
    if (c->status < STATUS_MAX) statuses[c->status]++;
    if (!complete || (c->is_events && !done)) broken++;
    if (complete && c->status == 200 && (!c->is_events || done)) {
        good++;
        events += c->events - (c->is_events ? 1 : 0);
        keep(&whole, now - c->sent_at);
        keep(&first, (c->first_at ? c->first_at : now) - c->sent_at);
    } else bad++;
    if (!complete || c->closes) {
        close(c->fd);
        c->fd = -1;
    }
    send_next(c);
}

/* --- reading ------------------------------------------------------------------------------------------------------ */

static void take_body(struct connection *c, const char *p, size_t n) {
    if (!c->first_at) c->first_at = now_us();
    body_bytes += n;
    if (!c->is_events) return;
    for (const char *at = p, *line; (line = memchr(at, '\n', p + n - at)); at = line + 1)
        c->events += (line > p ? line[-1] : c->last) == '\n'; /* an empty line ends an event */
    c->last = p[n - 1];
    size_t new = n < TAIL ? n : TAIL;
    memmove(c->tail, c->tail + new, TAIL - new);
    memcpy(c->tail + TAIL - new, p + n - new, new);
}

static size_t take_head(struct connection *c, const char *p, size_t n) { /* bytes used */
    size_t had = c->head_len, room = HEAD_MAX - 1 - had, got = n < room ? n : room;
    memcpy(c->head + had, p, got);
    c->head[c->head_len = had + got] = 0;
    char *stop = strstr(c->head + (had > 3 ? had - 3 : 0), "\r\n\r\n");
    if (!stop) {
        if (got == room) end(c, 0);
        return got;
    }
    size_t used = stop + 4 - c->head - had;
    stop[2] = 0;
    c->status = atoi(c->head + 9);
    c->is_events = strcasestr(c->head, "\r\ncontent-type: text/event-stream") != NULL;
    c->closes = strcasestr(c->head, "\r\nconnection: close") != NULL;
    const char *length = strcasestr(c->head, "\r\ncontent-length:");
    if (c->status < 200) {
        c->head_len = 0;
    } else if (strcasestr(c->head, "\r\ntransfer-encoding: chunked")) {
        c->state = CHUNK_SIZE;
        c->size = 0;
    } else if (length) {
        c->left = strtoul(length + 17, NULL, 10);
        c->state = BODY;
        if (!c->left) end(c, 1);
    } else {
        c->state = TO_CLOSE;
        c->closes = 1;
    }
    return used;
}

static void take_size_byte(struct connection *c, char byte) {
    if (byte == '\n') {
        c->left = c->size;
        c->size = c->line_len = 0;
        c->state = c->left ? CHUNK_DATA : TRAILER;
        return;
    }
    int digit = byte >= '0' && byte <= '9' ? byte - '0' : (byte | 32) >= 'a' && (byte | 32) <= 'f' ? (byte | 32) - 'a' + 10 : -1;
    if (digit >= 0 && !c->line_len) c->size = c->size * 16 + digit;
    else c->line_len++; /* an extension, or the carriage return */
}

static void take_trailer_byte(struct connection *c, char byte) {
    if (byte == '\n' && !c->line_len) end(c, 1);
    else if (byte == '\n') c->line_len = 0;
    else if (byte != '\r') c->line_len++;
}

static size_t take(struct connection *c, const char *p, size_t n) { /* bytes consumed */
    size_t part = n < c->left ? n : c->left;
    switch (c->state) {
    case HEAD:
        return take_head(c, p, n);
    case BODY:
        take_body(c, p, part);
        if (!(c->left -= part)) end(c, 1);
        return part;
    case CHUNK_DATA:
        take_body(c, p, part);
        if (!(c->left -= part)) c->state = CHUNK_CRLF;
        return part;
    case CHUNK_CRLF:
        if (*p == '\n') c->state = CHUNK_SIZE;
        return 1;
    case CHUNK_SIZE:
        take_size_byte(c, *p);
        return 1;
    case TRAILER:
        take_trailer_byte(c, *p);
        return 1;
    case TO_CLOSE:
        take_body(c, p, n);
        return n;
    default:
        return n; /* no request was sent */
    }
}

static void read_from(struct connection *c) {
    static char buffer[1 << 17];
    ssize_t n = recv(c->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        if (c->state != IDLE) end(c, n == 0 && c->state == TO_CLOSE);
        else {
            close(c->fd);
            c->fd = -1;
        }
        return;
    }
    for (ssize_t used = 0; used < n && c->fd >= 0;) used += take(c, buffer + used, n - used);
}

/* --- requests and results ------------------------------------------------------------------------------------------ */

static struct text make_request(const char *path, const char *headers, const char *own, struct text body) {
    struct text r = {NULL, 0, NULL};
    if (!body.at) {
        r.at = malloc(strlen(path) + strlen(headers) + strlen(own) + 256);
        if (!r.at) abort();
        r.len = sprintf(r.at, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: */*\r\n%s%s%s\r\n", path, port, headers,
                        own, *own ? "\r\n" : "");
        return r;
    }
    r.at = malloc(body.len + strlen(path) + strlen(headers) + strlen(own) + 256);
    if (!r.at) abort();
    r.len = sprintf(r.at,
                    "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nAccept: */*\r\n"
                    "Content-Length: %zu\r\n%s%s%s\r\n",
                    path, port, body.len, headers, own, *own ? "\r\n" : "");
    memcpy(r.at + r.len, body.at, body.len);
    if (body.number) r.number = r.at + r.len + (body.number - body.at);
    r.len += body.len;
    return r;
}

static struct text read_file(const char *path) {
    struct text t = {malloc(1 << 22), 0, NULL};
    FILE *f = fopen(path, "rb");
    if (!f || !t.at) {
        perror(path);
        exit(2);
    }
    t.len = fread(t.at, 1, (1 << 22) - 1, f);
    t.at[t.len] = 0;
    fclose(f);
    return t;
}

static struct text with_number(struct text body, const char *mark) { /* replaces the mark */
    size_t width = strlen(mark);
    char *found = body.at ? strstr(body.at, mark) : NULL, *rest = found + width;
    if (!found || body.len + NUMBER_DIGITS >= 1 << 22) {
        fprintf(stderr, "load: %s is not in the body\n", mark);
        exit(2);
    }
    memmove(found + NUMBER_DIGITS, rest, body.at + body.len + 1 - rest);
    body.len += NUMBER_DIGITS - width;
    body.number = found;
    last_number = now_us();
    return body;
}

static void make_requests(const char *path, const char *headers, const char *targets, struct text body) {
    if (!targets) {
        requests = malloc(sizeof *requests);
        requests[n_requests++] = make_request(path, headers, "", body);
        return;
    }
    for (char *line = strtok(read_file(targets).at, "\n"); line; line = strtok(NULL, "\n")) {
        char *tab = strchr(line, '\t');
        if (tab) *tab = 0;
        requests = realloc(requests, (n_requests + 1) * sizeof *requests);
        requests[n_requests++] = make_request(line, headers, tab ? tab + 1 : "", body);
    }
}

static int ascending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static float at(const struct times *t, double part) {
    long i = (long)(part * t->count);
    return t->count ? t->ms[i < t->count ? i : t->count - 1] : 0;
}

static void report(int n_connections, double seconds) {
    qsort(whole.ms, whole.count, sizeof *whole.ms, ascending);
    qsort(first.ms, first.count, sizeof *first.ms, ascending);
    printf("{\"connections\": %d, \"seconds\": %.3f, \"ok\": %ld, \"bad\": %ld, \"broken\": %ld, \"unfinished\": %ld, "
           "\"refused\": %ld, \"per_second\": %.1f, \"p50_ms\": %.3f, \"p90_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f, "
           "\"first_p50_ms\": %.3f, \"first_p99_ms\": %.3f, \"events\": %ld, \"body_bytes\": %ld, \"statuses\": {",
           n_connections, seconds, good, bad, broken, started - ended, refused, good / seconds, at(&whole, .5),
           at(&whole, .9), at(&whole, .99), at(&whole, 1), at(&first, .5), at(&first, .99), events, body_bytes);
    const char *comma = "";
    for (int status = 0; status < STATUS_MAX; status++)
        if (statuses[status]) {
            printf("%s\"%d\": %ld", comma, status, statuses[status]);
            comma = ", ";
        }
    printf("}}\n");
}

static void run(int n_connections, double seconds, double ramp) {
    struct epoll_event ready[256];
    int opened = 0;
    long start = now_us(), stop = start + (long)(seconds * 1e6), give_up = stop + DRAIN_SECONDS * 1000000L;
    poller = epoll_create1(0);
    for (long now = start; (ended < started || (opened < n_connections && !stopping)) && now < give_up; now = now_us()) {
        if (now >= stop) stopping = 1;
        for (; opened < n_connections && now - start >= (long)(ramp * 1e6) * opened / n_connections; opened++) {
            connections[opened].fd = -1;
            send_next(&connections[opened]);
        }
        int n = epoll_wait(poller, ready, 256, opened < n_connections ? 1 : 50);
        for (int i = 0; i < n; i++) {
            struct connection *c = ready[i].data.ptr;
            if (c->fd >= 0) read_from(c);
        }
    }
    report(n_connections, (now_us() - start) / 1e6);
}

int main(int argc, char **argv) {
    const char *path = "/v1/chat/completions", *body = NULL, *targets = NULL, *mark = NULL;
    char headers[8192] = "";
    int option, n_connections = 1;
    double seconds = 10, ramp = 0;
    while ((option = getopt(argc, argv, "p:u:b:H:f:c:t:n:r:m:")) != -1) switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'u': path = optarg; break;
        case 'b': body = optarg; break;
        case 'f': targets = optarg; break;
        case 'c': n_connections = atoi(optarg); break;
        case 't': seconds = atof(optarg); break;
        case 'n': most = atol(optarg); break;
        case 'r': ramp = atof(optarg); break;
        case 'm': mark = optarg; break;
        case 'H':
            if (strlen(headers) + strlen(optarg) + 3 > sizeof headers) return 2;
            strcat(strcat(headers, optarg), "\r\n");
            break;
        default: return 2;
        }
    if (!port || n_connections < 1 || n_connections > CONNECTIONS_MAX || seconds <= 0 || seconds > 7200 ||
        ramp < 0 || ramp > seconds) {
        fprintf(stderr, "load: see the comment at the head of load.c\n");
        return 2;
    }
    struct text sent = body ? read_file(body) : (struct text){NULL, 0, NULL};
    make_requests(path, headers, targets, mark ? with_number(sent, mark) : sent);
    if (!n_requests) return 2;
    run(n_connections, seconds, ramp);
    return good && !bad && started == ended && !refused ? 0 : 1;
}
