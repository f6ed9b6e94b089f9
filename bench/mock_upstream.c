/* The mock provider: OpenAI's chat completions on loopback, as fast as the machine allows.
 *
 *     mock_upstream [PORT]                  0 takes a free port; the first line on stdout names it: {"port": N}
 *
 * POST anything                             one chat completion; server-sent events if the body has "stream": true,
 *                                           with a usage event if it also has "include_usage": true
 * GET  /control?latency=MS&gap=MS&events=N&headers=1
 *                                           changes later responses: delay before a response; time between the events of
 *                                           a stream (0: the whole stream in one write); content events of a stream;
 *                                           1: the completions have two dozen headers, 0: two
 * GET  /stats                               responses completed so far, and the settings
 *
 * One thread, epoll. Every response has a unique ID, because gateways rely on that. A request is served when the
 * previous one on its connection is done (no pipelining, like all clients here). The program dies with its parent. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FDS = 32768, REQUEST_MAX = 1 << 22, EVENTS_MAX = 100000 };

/* --- bytes -------------------------------------------------------------------------------------------------------- */

struct bytes {
    char *at;
    size_t len, room;
};

static void reserve(struct bytes *b, size_t more) {
    if (b->len + more <= b->room) return;
    while (b->len + more > b->room) b->room = b->room ? b->room * 2 : 4096;
    b->at = realloc(b->at, b->room);
    if (!b->at) abort();
}

static void append(struct bytes *b, const char *text, size_t len) {
    reserve(b, len);
    memcpy(b->at + b->len, text, len);
    b->len += len;
}

/* --- responses ----------------------------------------------------------------------------------------------------- */

/* Templates with the place of the id; "chatcmpl-" is followed by 12 hexadecimal digits. */
#define ID "chatcmpl-000000000000"
#define EVENT_HEAD \
    "data: {\"id\":\"" ID "\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\"model\":\"gpt-4o-mini\"," \
    "\"system_fingerprint\":\"fp_bench\",\"choices\":["

static const char CONTENT_EVENT[] =
    EVENT_HEAD "{\"index\":0,\"delta\":{\"content\":\" token\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
static const char STOP_EVENT[] =
    EVENT_HEAD "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\n";
static const char USAGE_EVENT[] =
    EVENT_HEAD "],\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":%d,\"total_tokens\":%d}}\n\n";
static const char DONE_EVENT[] = "data: [DONE]\n\n";
static const char STREAM_HEAD[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    "Transfer-Encoding: chunked\r\n\r\n";
static const char PLAIN_BODY[] =
    "{\"id\":\"" ID "\",\"object\":\"chat.completion\",\"created\":1760000000,\"model\":\"gpt-4o-mini\",\"choices\":"
    "[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"A fixed answer, made to be measured: short, and "
    "always the same length.\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":"
    "{\"prompt_tokens\":20,\"completion_tokens\":16,\"total_tokens\":36},\"system_fingerprint\":\"fp_bench\"}";
static const char MORE_HEADERS[] = /* such as OpenAI's API sends, besides type and length */
    "Date: Tue, 01 Dec 2026 10:00:00 GMT\r\n"
    "Connection: keep-alive\r\n"
    "access-control-expose-headers: X-Request-ID\r\n"
    "openai-organization: bench-organization\r\n"
    "openai-processing-ms: 412\r\n"
    "openai-project: proj_bench\r\n"
    "openai-version: 2020-10-01\r\n"
    "x-envoy-upstream-service-time: 431\r\n"
    "x-ratelimit-limit-requests: 30000\r\n"
    "x-ratelimit-limit-tokens: 150000000\r\n"
    "x-ratelimit-remaining-requests: 29999\r\n"
    "x-ratelimit-remaining-tokens: 149999982\r\n"
    "x-ratelimit-reset-requests: 2ms\r\n"
    "x-ratelimit-reset-tokens: 0s\r\n"
    "x-request-id: req_00000000000000000000000000000000\r\n"
    "x-openai-proxy-wasm: v0.1\r\n"
    "cf-cache-status: DYNAMIC\r\n"
    "Set-Cookie: __cf_bm=0000000000000000000000000000000000000000000; path=/; HttpOnly; Secure; SameSite=None\r\n"
    "Strict-Transport-Security: max-age=31536000; includeSubDomains; preload\r\n"
    "X-Content-Type-Options: nosniff\r\n"
    "Server: cloudflare\r\n"
    "CF-RAY: 0000000000000000-FRA\r\n";

static int latency_ms, gap_ms, events = 100, more_headers;
static unsigned long next_id, plain_answers, streams;

static void write_id(char *from, char *to, unsigned long id) { /* into every placeholder */
    static const char DIGITS[] = "0123456789abcdef";
    char *place = from;
    while ((place = memmem(place, to - place, "chatcmpl-", 9))) {
        place += 9;
        unsigned long rest = id;
        for (int digit = 11; digit >= 0; digit--, rest >>= 4) place[digit] = DIGITS[rest & 15];
    }
}

static void add_event(struct bytes *out, const char *event, size_t len) { /* one HTTP chunk */
    char size[16];
    append(out, size, sprintf(size, "%zx\r\n", len));
    append(out, event, len);
    append(out, "\r\n", 2);
}

static void add_ending(struct bytes *out, int with_usage) {
    add_event(out, STOP_EVENT, sizeof STOP_EVENT - 1);
    if (with_usage) {
        char usage[sizeof USAGE_EVENT + 32];
        add_event(out, usage, sprintf(usage, USAGE_EVENT, events, 20 + events));
    }
    add_event(out, DONE_EVENT, sizeof DONE_EVENT - 1);
    append(out, "0\r\n\r\n", 5);
}

/* --- connections -------------------------------------------------------------------------------------------------- */

struct connection {
    struct bytes in, out;
    size_t sent;               /* of out */
    unsigned long id;          /* of the answer under way */
    unsigned generation;       /* timers of an earlier connection on this descriptor are void */
    int open, busy, stream, with_usage, begun, left, want_write;
};

static struct connection connections[MAX_FDS];
static int poller;

static void drop(int fd) {
    struct connection *c = &connections[fd];
    c->open = c->busy = c->want_write = 0;
    c->in.len = c->out.len = c->sent = 0;
    c->generation++;
    close(fd);
}

static void watch(int fd, int want_write) {
    struct epoll_event e = {.events = EPOLLIN | (want_write ? EPOLLOUT : 0), .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_MOD, fd, &e);
    connections[fd].want_write = want_write;
}

static void flush(int fd) {
    struct connection *c = &connections[fd];
    while (c->sent < c->out.len) {
        ssize_t n = send(fd, c->out.at + c->sent, c->out.len - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            drop(fd);
            return;
        }
        if (n < 0) break;
        c->sent += n;
    }
    if (c->sent == c->out.len) c->sent = c->out.len = 0;
    if (c->want_write != (c->out.len > 0)) watch(fd, c->out.len > 0);
}

/* --- timers: a heap, earliest first ------------------------------------------------------------------------------- */

struct timer {
    long due;
    int fd;
    unsigned generation;
};

static struct timer heap[MAX_FDS * 2];
static int timers;

static long now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

static void wake_at(int fd, long due) {
    if (timers == MAX_FDS * 2) abort();
    int at = timers++;
    for (; at && heap[(at - 1) / 2].due > due; at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
    heap[at] = (struct timer){due, fd, connections[fd].generation};
}

static struct timer take_timer(void) {
    struct timer first = heap[0], last = heap[--timers];
    int at = 0;
    for (int child; (child = 2 * at + 1) < timers; at = child) {
        if (child + 1 < timers && heap[child + 1].due < heap[child].due) child++;
        if (heap[child].due >= last.due) break;
        heap[at] = heap[child];
    }
    heap[at] = last;
    return first;
}

/* --- answering ---------------------------------------------------------------------------------------------------- */

static void say(int fd, size_t from) { /* sends the output since `from`, with its ID */
    struct connection *c = &connections[fd];
    write_id(c->out.at + from, c->out.at + c->out.len, c->id);
    flush(fd);
}

static void answer_plain(int fd) {
    struct connection *c = &connections[fd];
    char head[128];
    size_t from = c->out.len;
    append(&c->out, head, sprintf(head, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n",
                                  sizeof PLAIN_BODY - 1));
    if (more_headers) append(&c->out, MORE_HEADERS, sizeof MORE_HEADERS - 1);
    append(&c->out, "\r\n", 2);
    append(&c->out, PLAIN_BODY, sizeof PLAIN_BODY - 1);
    c->busy = 0;
    plain_answers++;
    say(fd, from);
}

static void answer_stream(int fd) { /* the next part: everything, the head, or one event */
    struct connection *c = &connections[fd];
    size_t from = c->out.len;
    int now = gap_ms ? c->begun : c->left;
    if (!c->begun) append(&c->out, STREAM_HEAD, sizeof STREAM_HEAD - 1);
    c->begun = 1;
    for (; now; now--, c->left--) add_event(&c->out, CONTENT_EVENT, sizeof CONTENT_EVENT - 1);
    if (!c->left) {
        add_ending(&c->out, c->with_usage);
        c->busy = 0;
        streams++;
    }
    say(fd, from);
}

static void go_on(int fd, long due) { /* the request of this connection has become due at `due` */
    struct connection *c = &connections[fd];
    if (c->stream) answer_stream(fd);
    else answer_plain(fd);
    if (c->open && c->busy) wake_at(fd, due + gap_ms * 1000L);
}

static void start_answer(int fd, const char *body) {
    struct connection *c = &connections[fd];
    c->id = ++next_id;
    c->stream = strstr(body, "\"stream\":true") || strstr(body, "\"stream\": true");
    c->with_usage = strstr(body, "\"include_usage\":true") || strstr(body, "\"include_usage\": true");
    c->begun = 0;
    c->left = events;
    c->busy = 1;
    if (latency_ms) wake_at(fd, now_us() + latency_ms * 1000L);
    else go_on(fd, now_us());
}

static int setting(const char *line, const char *name, int old, int most) {
    const char *found = strstr(line, name);
    int value = found ? atoi(found + strlen(name)) : old;
    return value < 0 || value > most ? old : value;
}

static void answer_get(int fd, const char *line) {
    struct connection *c = &connections[fd];
    char body[256], head[128];
    if (!strncmp(line, "GET /control?", 13)) {
        latency_ms = setting(line, "latency=", latency_ms, 60000);
        gap_ms = setting(line, "gap=", gap_ms, 60000);
        events = setting(line, "events=", events, EVENTS_MAX);
        more_headers = setting(line, "headers=", more_headers, 1);
    }
    int len = sprintf(body, "{\"plain\": %lu, \"streams\": %lu, \"latency\": %d, \"gap\": %d, \"events\": %d}\n",
                      plain_answers, streams, latency_ms, gap_ms, events);
    append(&c->out, head, sprintf(head, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", len));
    append(&c->out, body, len);
    flush(fd);
}

static char *whole_request(struct bytes *in) { /* its body, as text; NULL while some of it is missing */
    reserve(in, 1);
    in->at[in->len] = 0;
    char *end = strstr(in->at, "\r\n\r\n");
    if (!end) return NULL;
    char *body = end + 4;
    *end = 0;
    const char *length = strcasestr(in->at, "\r\ncontent-length:");
    int chunked = strcasestr(in->at, "\r\ntransfer-encoding: chunked") != NULL;
    size_t have = in->at + in->len - body;
    int whole = chunked ? have >= 5 && !memcmp(in->at + in->len - 5, "0\r\n\r\n", 5)
                        : have >= (length ? strtoul(length + 17, NULL, 10) : 0);
    if (!whole) *end = '\r';
    return whole ? body : NULL;
}

static void read_from(int fd) {
    struct connection *c = &connections[fd];
    reserve(&c->in, 65536);
    ssize_t n = recv(fd, c->in.at + c->in.len, c->in.room - c->in.len - 1, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0 || c->busy || c->in.len + n > REQUEST_MAX) {
        drop(fd);
        return;
    }
    c->in.len += n;
    const char *body = whole_request(&c->in);
    if (!body) return;
    c->in.len = 0;
    if (!strncmp(c->in.at, "GET ", 4)) answer_get(fd, c->in.at);
    else start_answer(fd, body);
}

/* --- the loop ----------------------------------------------------------------------------------------------------- */

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, (void *)&a, sizeof a) || listen(fd, 4096)) {
        perror("mock_upstream");
        exit(1);
    }
    getsockname(fd, (void *)&a, &len);
    printf("{\"port\": %d}\n", ntohs(a.sin_port));
    fflush(stdout);
    return fd;
}

static void accept_all(int listener) {
    int fd, yes = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= MAX_FDS) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        connections[fd].open = 1;
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e);
    }
}

static int until_timer(void) {
    if (!timers) return -1;
    long left = heap[0].due - now_us();
    return left <= 0 ? 0 : (int)((left + 999) / 1000);
}

int main(int argc, char **argv) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    int listener = listen_on(argc > 1 ? atoi(argv[1]) : 0);
    poller = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener}, ready[256];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        int n = epoll_wait(poller, ready, 256, until_timer());
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            if (fd == listener) accept_all(listener);
            else if (connections[fd].open) {
                if (ready[i].events & EPOLLOUT) flush(fd);
                if (connections[fd].open && ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) read_from(fd);
            }
        }
        for (long now = now_us(); timers && heap[0].due <= now;) {
            struct timer t = take_timer();
            if (connections[t.fd].generation == t.generation) go_on(t.fd, t.due);
        }
    }
}
