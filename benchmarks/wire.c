/* The two ends of the gateway benchmark: a scripted upstream and a load client.
 *
 *   wire serve --port P [--tokens N]        answers as vLLM 0.32 does, without a model
 *   wire load --port P --request FILE ...   sends FILE over keep-alive connections, prints JSON
 *
 * One thread, epoll, HTTP/1.1 over loopback, nothing else. Both ends are here because they share
 * the reader of messages. They are in C so that what is measured is the gateway between them.
 *
 * What the upstream does is written in the prompt, which every gateway passes on unchanged:
 *   pace_us=5000    one event, one write, every 5 ms (otherwise all events in one write)
 *   hold_us=60000000    after the first event a silence of that long
 * Token ids, log probabilities and a chunk of usage come when the request asks for them.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define EVENTS_AT_ONCE 256
#define STREAM_TOKENS 50 /* with the chunk that names the role: 51 events, then [DONE] */
#define PROMPT_TOKENS 220
#define ID_DIGITS 16

static void fail(const char *what) {
    fprintf(stderr, "wire: %s: %s\n", what, errno ? strerror(errno) : "wrong");
    exit(1);
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* ---- growing text ------------------------------------------------------------------------- */

struct text {
    char *bytes; /* always followed by a zero once something was added */
    size_t length, room;
};

static void reserve(struct text *t, size_t more) {
    if (t->length + more + 1 <= t->room) return;
    t->room = (t->length + more + 1) * 2;
    t->bytes = realloc(t->bytes, t->room);
    if (!t->bytes) fail("memory");
}

static void add(struct text *t, const void *bytes, size_t length) {
    reserve(t, length);
    memcpy(t->bytes + t->length, bytes, length);
    t->length += length;
    t->bytes[t->length] = 0;
}

__attribute__((format(printf, 2, 3))) static void addf(struct text *t, const char *format, ...) {
    va_list values, again;
    va_start(values, format);
    va_copy(again, values);
    int length = vsnprintf(NULL, 0, format, values);
    va_end(values);
    reserve(t, length);
    vsnprintf(t->bytes + t->length, length + 1, format, again);
    va_end(again);
    t->length += length;
}

static void cut(struct text *t) {
    t->length = 0;
    if (t->bytes) t->bytes[0] = 0;
}

/* ---- one HTTP/1.1 message as it arrives, request or answer ---------------------------------- */

enum state { HEAD, SIZED, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER, COMPLETE, BROKEN };

struct message {
    enum state state;
    struct text head, body;
    size_t wanted; /* bytes of the body, or of the chunk, that are still to come */
    size_t line;   /* length of the trailer line being read */
    int closes;    /* the sender will close the connection */
};

static void renew(struct message *m) {
    m->state = HEAD;
    cut(&m->head);
    cut(&m->body);
    m->wanted = m->line = 0;
    m->closes = 0;
}

static const char *header(const struct message *m, const char *name) {
    char wanted[64];
    snprintf(wanted, sizeof wanted, "\r\n%s:", name);
    const char *at = strcasestr(m->head.bytes, wanted);
    if (!at) return NULL;
    at += strlen(wanted);
    while (*at == ' ') at++;
    return at;
}

static void begin_body(struct message *m, int is_answer) {
    const char *value = header(m, "connection");
    m->closes = value && !strncasecmp(value, "close", 5);
    if ((value = header(m, "transfer-encoding")) && !strncasecmp(value, "chunked", 7)) {
        m->state = CHUNK_SIZE;
    } else if ((value = header(m, "content-length"))) {
        m->wanted = strtoull(value, NULL, 10);
        m->state = m->wanted ? SIZED : COMPLETE;
    } else {
        m->state = is_answer ? BROKEN : COMPLETE; /* no gateway here ends a body by closing */
    }
}

/* Takes what belongs to this message; returns how many bytes that were. */
static size_t take(struct message *m, const char *bytes, size_t length, int is_answer) {
    size_t at = 0;
    while (at < length && m->state < COMPLETE) {
        if (m->state == HEAD) {
            size_t before = m->head.length;
            add(&m->head, bytes + at, length - at);
            size_t from = before > 3 ? before - 3 : 0;
            char *end = memmem(m->head.bytes + from, m->head.length - from, "\r\n\r\n", 4);
            if (!end) return length;
            m->head.length = end + 4 - m->head.bytes;
            m->head.bytes[m->head.length] = 0;
            at += m->head.length - before;
            begin_body(m, is_answer);
        } else if (m->state == SIZED || m->state == CHUNK) {
            size_t part = length - at < m->wanted ? length - at : m->wanted;
            add(&m->body, bytes + at, part);
            at += part;
            m->wanted -= part;
            if (!m->wanted) m->state = m->state == SIZED ? COMPLETE : CHUNK_END;
        } else if (m->state == CHUNK_SIZE) {
            char c = bytes[at++];
            if (isxdigit((unsigned char)c)) {
                int digit = isdigit((unsigned char)c) ? c - '0' : (c | 32) - 'a' + 10;
                m->wanted = m->wanted * 16 + digit;
            } else if (c == '\n') {
                m->state = m->wanted ? CHUNK : TRAILER;
                m->line = 0;
            } else if (c != '\r') {
                m->state = BROKEN;
            }
        } else if (m->state == CHUNK_END) {
            if (bytes[at++] == '\n') m->state = CHUNK_SIZE;
        } else { /* TRAILER: an empty line ends it */
            char c = bytes[at++];
            if (c == '\n' && !m->line) m->state = COMPLETE;
            m->line = c == '\n' ? 0 : m->line + (c != '\r');
        }
    }
    return at;
}

/* ---- what vLLM writes ----------------------------------------------------------------------- */

enum { WITH_IDS = 1, WITH_LOGPROBS = 2, WITH_USAGE = 4, VARIANTS = 8 };

/* Bytes that are ready but for the response's id, and where its digits and the events stand. */
struct script {
    struct text bytes;
    size_t *id_at, *event_at; /* event_at has one entry more: where the last one ends */
    int ids, events;
};

static struct script wholes[VARIANTS], streams[VARIANTS];
static char script_model[128];
static int whole_tokens = 89; /* of an answer that is no stream: so many make 1 KB */
static const char *WORDS[] = {" the",   " answer", " is",   " near",  " when", " you",   " ask",
                              " again", " so",     " look", " twice", " at",   " every", " step",
                              " and",   " then",   " go",   " on",    ","};
#define WORD_COUNT (sizeof WORDS / sizeof *WORDS)

static const char *word(int position) { return position ? WORDS[position % WORD_COUNT] : "Well"; }
static int word_id(int position) { return 1000 + position * 7919 % 150000; }

static void mark_id(struct script *s) {
    s->id_at = realloc(s->id_at, (s->ids + 1) * sizeof *s->id_at);
    s->id_at[s->ids++] = s->bytes.length;
    addf(&s->bytes, "%0*d", ID_DIGITS, 0);
}

static void mark_event(struct script *s) {
    s->event_at = realloc(s->event_at, (s->events + 2) * sizeof *s->event_at);
    s->event_at[s->events++] = s->bytes.length;
}

static void add_logprob(struct text *t, int position, const char *piece) {
    /* Single precision printed as double precision: 17 digits, as vLLM's numbers are. */
    float value = -0.9f / (float)(1 + (position * 37) % 91);
    addf(t, "{\"token\":\"%s\",\"logprob\":%.17g,\"bytes\":[", piece, value);
    for (const char *c = piece; *c; c++) addf(t, c == piece ? "%d" : ",%d", *c);
    addf(t, "],\"top_logprobs\":[]}");
}

static void add_prompt_ids(struct text *t, int flags) {
    addf(t, "\"prompt_token_ids\":");
    if (!(flags & WITH_IDS)) {
        addf(t, "null");
        return;
    }
    for (int i = 0; i < PROMPT_TOKENS; i++) addf(t, "%c%d", i ? ',' : '[', word_id(i + 11));
    addf(t, "]");
}

static void add_usage(struct text *t, int completion) {
    addf(t, "\"usage\":{\"prompt_tokens\":%d,\"total_tokens\":%d,\"completion_tokens\":%d",
         PROMPT_TOKENS, PROMPT_TOKENS + completion, completion);
}

static void add_preamble(struct script *s, const char *object) {
    addf(&s->bytes, "{\"id\":\"chatcmpl-9f3c61d2a7b84e05");
    mark_id(s);
    addf(&s->bytes, "\",\"object\":\"%s\",\"created\":%ld,\"model\":\"%s\",\"choices\":[", object,
         (long)time(NULL), script_model);
}

static void write_whole(struct script *s, int flags) {
    struct text *t = &s->bytes;
    add_preamble(s, "chat.completion");
    addf(t, "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"");
    mark_id(s); /* no two answers are alike, as with an engine; no token stands for the number */
    for (int i = 0; i < whole_tokens - 1; i++) addf(t, "%s", word(i));
    addf(t, "\",\"refusal\":null,\"annotations\":null,\"audio\":null,\"function_call\":null,"
            "\"reasoning\":null},\"logprobs\":");
    if (flags & WITH_LOGPROBS) {
        addf(t, "{\"content\":[");
        for (int i = 0; i < whole_tokens; i++) {
            if (i) addf(t, ",");
            add_logprob(t, i, i < whole_tokens - 1 ? word(i) : "");
        }
        addf(t, "]}");
    } else {
        addf(t, "null");
    }
    addf(t, ",\"finish_reason\":\"stop\",\"stop_reason\":null,\"token_ids\":");
    if (flags & WITH_IDS) {
        for (int i = 0; i < whole_tokens; i++) addf(t, "%c%d", i ? ',' : '[', word_id(i));
        addf(t, "]");
    } else {
        addf(t, "null");
    }
    addf(t, ",\"routed_experts\":null}],\"service_tier\":null,"
            "\"system_fingerprint\":\"vllm-0.32.0-wire\",");
    add_usage(t, whole_tokens);
    addf(t, ",\"prompt_tokens_details\":null,\"completion_tokens_details\":null},"
            "\"prompt_logprobs\":null,");
    add_prompt_ids(t, flags);
    addf(t, ",\"prompt_text\":null,\"kv_transfer_params\":null,"
            "\"ec_transfer_params\":null,\"metrics\":null}");
}

static void write_token(struct script *s, int position, int flags) {
    struct text *t = &s->bytes;
    int is_last = position == STREAM_TOKENS - 1;
    const char *piece = is_last ? "" : word(position);
    addf(t, "{\"index\":0,\"delta\":{");
    if (!is_last) addf(t, "\"content\":\"%s\"", piece);
    addf(t, "},\"logprobs\":");
    if (flags & WITH_LOGPROBS) {
        addf(t, "{\"content\":[");
        add_logprob(t, position, piece);
        addf(t, "]}");
    } else {
        addf(t, "null");
    }
    addf(t, ",\"finish_reason\":%s", is_last ? "\"stop\",\"stop_reason\":null" : "null");
    addf(t, ",\"token_ids\":");
    if (flags & WITH_IDS)
        addf(t, "[%d]", word_id(position));
    else
        addf(t, "null");
    addf(t, "}]");
    if (is_last && !(flags & WITH_USAGE)) addf(t, ",\"system_fingerprint\":\"vllm-0.32.0-wire\"");
    addf(t, "}");
}

/* Each event is an HTTP chunk of its own, as uvicorn writes it; the last one ends the body too. */
static void write_stream(struct script *s, int flags) {
    struct script event = {0};
    int last = STREAM_TOKENS + (flags & WITH_USAGE ? 1 : 0);
    for (int i = 0; i <= last + 1; i++) {
        struct text *t = &event.bytes;
        cut(t);
        event.ids = 0;
        addf(t, "data: ");
        if (i == last + 1) {
            addf(t, "[DONE]");
        } else {
            add_preamble(&event, "chat.completion.chunk");
            if (i == 0) {
                addf(t, "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
                        "\"logprobs\":null,\"finish_reason\":null}],");
                add_prompt_ids(t, flags);
                addf(t, ",\"prompt_text\":null}");
            } else if (i <= STREAM_TOKENS) {
                write_token(&event, i - 1, flags);
            } else {
                addf(t, "],");
                add_usage(t, STREAM_TOKENS);
                addf(t, "},\"system_fingerprint\":\"vllm-0.32.0-wire\"}");
            }
        }
        addf(t, "\n\n");
        mark_event(s);
        addf(&s->bytes, "%zx\r\n", t->length);
        for (int k = 0; k < event.ids; k++) {
            s->id_at = realloc(s->id_at, (s->ids + 1) * sizeof *s->id_at);
            s->id_at[s->ids++] = s->bytes.length + event.id_at[k];
        }
        add(&s->bytes, t->bytes, t->length);
        addf(&s->bytes, "\r\n");
    }
    addf(&s->bytes, "0\r\n\r\n");
    s->event_at[s->events] = s->bytes.length;
    free(event.bytes.bytes);
    free(event.id_at);
}

static void write_scripts(const char *model, size_t length) {
    if (length >= sizeof script_model) length = sizeof script_model - 1;
    memcpy(script_model, model, length);
    script_model[length] = 0;
    for (int flags = 0; flags < VARIANTS; flags++) {
        for (int k = 0; k < 2; k++) {
            struct script *s = k ? &streams[flags] : &wholes[flags];
            cut(&s->bytes);
            s->ids = s->events = 0;
            if (k)
                write_stream(s, flags);
            else
                write_whole(s, flags);
        }
    }
}

/* ---- serve ---------------------------------------------------------------------------------- */

struct peer { /* one connection of the gateway to us */
    int fd, waits_for_room;
    struct message request;
    struct text rest; /* what came after the request */
    struct text out;
    size_t sent;
    const struct script *script; /* of the paced stream being written */
    char id[ID_DIGITS + 1];
    int event;
    int64_t pace_ns, hold_ns, due_ns, shift_ns;
    int heap_at; /* -1: not waiting */
};

static int poll_fd, timer_fd;
static struct peer **heap;
static int heap_length, heap_room;
static uint64_t answers;

static void heap_put(int at, struct peer *p) {
    heap[at] = p;
    p->heap_at = at;
}

static void heap_sift(int at) {
    struct peer *p = heap[at];
    while (at && heap[(at - 1) / 2]->due_ns > p->due_ns) {
        heap_put(at, heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        int child = 2 * at + 1;
        if (child >= heap_length) break;
        if (child + 1 < heap_length && heap[child + 1]->due_ns < heap[child]->due_ns) child++;
        if (heap[child]->due_ns >= p->due_ns) break;
        heap_put(at, heap[child]);
        at = child;
    }
    heap_put(at, p);
}

static void heap_add(struct peer *p) {
    if (heap_length == heap_room) {
        heap_room = heap_room ? heap_room * 2 : 64;
        heap = realloc(heap, heap_room * sizeof *heap);
    }
    heap_put(heap_length++, p);
    heap_sift(p->heap_at);
}

static void heap_remove(struct peer *p) {
    int at = p->heap_at;
    p->heap_at = -1;
    if (at < 0 || at == --heap_length) return;
    heap_put(at, heap[heap_length]);
    heap_sift(at);
}

static void set_timer(void) {
    struct itimerspec when = {0};
    if (heap_length) {
        int64_t due = heap[0]->due_ns;
        when.it_value.tv_sec = due / 1000000000LL;
        when.it_value.tv_nsec = due % 1000000000LL;
    }
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

static void drop(struct peer *p) {
    heap_remove(p);
    close(p->fd);
    free(p->request.head.bytes);
    free(p->request.body.bytes);
    free(p->rest.bytes);
    free(p->out.bytes);
    free(p);
}

/* Writes what there is; returns -1 when the connection is gone. */
static int flush_out(struct peer *p) {
    while (p->sent < p->out.length) {
        ssize_t n = send(p->fd, p->out.bytes + p->sent, p->out.length - p->sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR) return -1;
        if (n < 0) break;
        p->sent += n;
    }
    int waits = p->sent < p->out.length;
    if (waits != p->waits_for_room) {
        struct epoll_event e = {.events = EPOLLIN | (waits ? EPOLLOUT : 0), .data.ptr = p};
        epoll_ctl(poll_fd, EPOLL_CTL_MOD, p->fd, &e);
        p->waits_for_room = waits;
    }
    if (!waits) {
        cut(&p->out);
        p->sent = 0;
    }
    return 0;
}

/* Adds these bytes of a script, with this answer's id in its places. */
static void add_events(struct peer *p, const struct script *s, size_t from, size_t to) {
    size_t start = p->out.length;
    add(&p->out, s->bytes.bytes + from, to - from);
    for (int i = 0; i < s->ids; i++)
        if (s->id_at[i] >= from && s->id_at[i] < to)
            memcpy(p->out.bytes + start + s->id_at[i] - from, p->id, ID_DIGITS);
}

static int64_t number_after(const struct text *body, const char *name) {
    char *at = memmem(body->bytes, body->length, name, strlen(name));
    return at ? strtoll(at + strlen(name), NULL, 10) : 0;
}

/* Whether `"name": true` stands in the body, with or without a space. */
static int asks(const struct text *body, const char *name) {
    char *at = body->bytes, *end = body->bytes + body->length;
    size_t length = strlen(name);
    while ((at = memmem(at, end - at, name, length))) {
        at += length;
        const char *c = at;
        while (*c == ' ') c++;
        if (!strncmp(c, "true", 4)) return 1;
    }
    return 0;
}

static void answer_chat(struct peer *p) {
    struct text *body = &p->request.body;
    if (!body->length) add(body, "{}", 2);
    int flags = (asks(body, "\"return_token_ids\":") ? WITH_IDS : 0) |
                (asks(body, "\"logprobs\":") ? WITH_LOGPROBS : 0);
    char *model = memmem(body->bytes, body->length, "\"model\":", 8);
    if (model && (model = strchr(model + 8, '"'))) {
        size_t length = strcspn(++model, "\"");
        if (strlen(script_model) != length || memcmp(model, script_model, length))
            write_scripts(model, length);
    }
    snprintf(p->id, sizeof p->id, "%0*llx", ID_DIGITS, (unsigned long long)++answers);
    if (!asks(body, "\"stream\":")) {
        const struct script *s = &wholes[flags];
        addf(&p->out, "HTTP/1.1 200 OK\r\n"
                      "date: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"
                      "content-length: %zu\r\ncontent-type: application/json\r\n\r\n",
             s->bytes.length);
        add_events(p, s, 0, s->bytes.length);
        return;
    }
    if (asks(body, "\"include_usage\":")) flags |= WITH_USAGE;
    const struct script *s = &streams[flags];
    addf(&p->out, "HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"
                  "content-type: text/event-stream; charset=utf-8\r\n"
                  "transfer-encoding: chunked\r\n\r\n");
    p->pace_ns = number_after(body, "pace_us=") * 1000;
    p->hold_ns = number_after(body, "hold_us=") * 1000;
    if (!p->pace_ns && !p->hold_ns) {
        add_events(p, s, 0, s->bytes.length);
        return;
    }
    p->script = s;
    p->event = 1;
    add_events(p, s, 0, s->event_at[1]);
    /* Streams that begin together must not tick together: a gateway would read them in one go.
     * The first gap is shifted, and the last one makes up for it. */
    p->shift_ns = p->pace_ns ? random() % p->pace_ns - p->pace_ns / 2 : 0;
    p->due_ns = now_ns() + p->pace_ns + p->shift_ns + p->hold_ns;
    heap_add(p);
}

static void answer_small(struct peer *p, const char *status, const char *body) {
    addf(&p->out, "HTTP/1.1 %s\r\ncontent-length: %zu\r\ncontent-type: application/json\r\n\r\n%s",
         status, strlen(body), body);
}

static void answer(struct peer *p) {
    const char *head = p->request.head.bytes;
    if (!strncmp(head, "POST /v1/chat/completions ", 26))
        answer_chat(p);
    else if (!strncmp(head, "GET /v1/models ", 15))
        answer_small(p, "200 OK",
                     "{\"object\":\"list\",\"data\":[{\"id\":\"base\",\"object\":\"model\","
                     "\"created\":1700000000,\"owned_by\":\"vllm\",\"root\":\"base\","
                     "\"parent\":null,\"max_model_len\":4096,\"permission\":[]}]}");
    else if (!strncmp(head, "GET /health", 11))
        answer_small(p, "200 OK", "");
    else if (!strncmp(head, "GET /version ", 13))
        answer_small(p, "200 OK", "{\"version\":\"0.32.0\"}");
    else
        answer_small(p, "404 Not Found", "{\"detail\":\"Not Found\"}");
}

/* Feeds bytes to the request being read, and answers each one that is complete. */
static int read_requests(struct peer *p, const char *bytes, size_t length) {
    while (length && p->heap_at < 0) {
        size_t used = take(&p->request, bytes, length, 0);
        bytes += used;
        length -= used;
        if (p->request.state == BROKEN) return -1;
        if (p->request.state != COMPLETE) break;
        answer(p);
        renew(&p->request);
    }
    if (length) add(&p->rest, bytes, length); /* it waits until the stream has ended */
    return flush_out(p);
}

static int on_readable(struct peer *p) {
    char buffer[65536];
    ssize_t n = recv(p->fd, buffer, sizeof buffer, 0);
    if (n < 0) return errno == EAGAIN || errno == EINTR ? 0 : -1;
    if (!n) return -1;
    return read_requests(p, buffer, n);
}

static int on_due(struct peer *p, int64_t now) {
    const struct script *s = p->script;
    add_events(p, s, s->event_at[p->event], s->event_at[p->event + 1]);
    p->event++;
    /* Without a pace all that follows a silence goes out at once. */
    while (!p->pace_ns && p->event < s->events) {
        add_events(p, s, s->event_at[p->event], s->event_at[p->event + 1]);
        p->event++;
    }
    if (p->event < s->events) {
        p->due_ns += p->pace_ns - (p->event == s->events - 1 ? p->shift_ns : 0);
        if (p->due_ns < now) p->due_ns = now; /* late: never two events in one write */
        heap_sift(p->heap_at);
        return flush_out(p);
    }
    heap_remove(p);
    if (flush_out(p)) return -1;
    struct text rest = p->rest;
    p->rest = (struct text){0};
    int result = rest.length ? read_requests(p, rest.bytes, rest.length) : 0;
    free(rest.bytes);
    return result;
}

static void accept_all(int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct peer *p = calloc(1, sizeof *p);
        p->fd = fd;
        p->heap_at = -1;
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = p};
        epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &e);
    }
}

static void serve(int port) {
    write_scripts("base", 4);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&address, sizeof address)) fail("bind");
    if (listen(listener, 4096)) fail("listen");
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, listener, &e);
    e.data.ptr = &timer_fd;
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, timer_fd, &e);
    struct epoll_event found[EVENTS_AT_ONCE];
    for (;;) {
        int count = epoll_wait(poll_fd, found, EVENTS_AT_ONCE, -1);
        for (int i = 0; i < count; i++) {
            struct peer *p = found[i].data.ptr;
            if (!p) {
                accept_all(listener);
            } else if (found[i].data.ptr == &timer_fd) {
                uint64_t times;
                if (read(timer_fd, &times, sizeof times) < 0) continue;
            } else if ((found[i].events & EPOLLOUT && flush_out(p)) ||
                       (found[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && on_readable(p))) {
                drop(p);
            }
        }
        for (int64_t now = now_ns(); heap_length && heap[0]->due_ns <= now;) {
            struct peer *p = heap[0];
            if (on_due(p, now)) drop(p);
        }
        set_timer();
    }
}

/* ---- load ----------------------------------------------------------------------------------- */

struct client { /* one keep-alive connection to the gateway */
    int fd, is_busy;
    struct message answer;
    int64_t sent_ns, first_ns;
};

struct figures {
    int64_t *ns;
    size_t count, room;
};

static struct {
    int port, clients, wants_stream, events;
    int64_t seconds_ns, limit_ns, requests;
    double rate; /* requests a second; 0: as soon as the answer before is there */
    struct text request, queue;
    size_t queued; /* bytes of the queue that were sent */
    size_t places[16]; /* of the running number in the request */
    int place_count;
    int64_t begun, ended, started, errors, reads, chunks, bytes;
    struct figures whole, first;
    char first_error[400];
} load = {.clients = 1, .events = 50, .limit_ns = 120000000000LL};

static void note(struct figures *f, int64_t ns) {
    if (f->count == f->room) {
        f->room = f->room ? f->room * 2 : 4096;
        f->ns = realloc(f->ns, f->room * sizeof *f->ns);
        if (!f->ns) fail("memory");
    }
    f->ns[f->count++] = ns;
}

static int ascending(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static double percentile_us(struct figures *f, double share) {
    if (!f->count) return 0;
    qsort(f->ns, f->count, sizeof *f->ns, ascending);
    size_t at = (size_t)(share * (double)(f->count - 1) + 0.5);
    return (double)f->ns[at] / 1000.0;
}

static void note_error(const char *what, const struct message *m) {
    load.errors++;
    if (load.first_error[0]) return;
    snprintf(load.first_error, sizeof load.first_error, "%s: %.120s %.200s", what,
             m && m->head.bytes ? m->head.bytes : "", m && m->body.bytes ? m->body.bytes : "");
}

static int count_of(const struct text *t, const char *what) {
    int count = 0;
    size_t length = strlen(what);
    char *at = t->bytes, *end = t->bytes + t->length;
    while ((at = memmem(at, end - at, what, length))) {
        count++;
        at += length;
    }
    return count;
}

/* What is wrong with a complete answer; NULL when nothing is. */
static const char *fault_of(const struct message *m, int *chunks) {
    *chunks = 0;
    if (!strncmp(m->head.bytes, "HTTP/1.1 202", 12)) return NULL; /* feedback: taken, that is all */
    if (strncmp(m->head.bytes, "HTTP/1.1 200", 12)) return "status";
    if (!m->body.length) return "no body";
    if (!load.wants_stream) {
        if (m->body.bytes[0] != '{') return "not an object";
        if (!strstr(m->body.bytes, "Well") || !strstr(m->body.bytes, "finish_reason"))
            return "not the answer";
        return NULL;
    }
    *chunks = count_of(&m->body, "data: ");
    size_t tail = m->body.length > 32 ? m->body.length - 32 : 0;
    if (!strstr(m->body.bytes + tail, "[DONE]")) return "no [DONE]";
    return *chunks < load.events ? "events missing" : NULL;
}

static int connect_to(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0) fail("socket");
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static void open_client(struct client *c) {
    c->fd = connect_to(load.port);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, c->fd, &e);
}

static void reopen(struct client *c) {
    close(c->fd);
    open_client(c);
}

static int is_over(int64_t now) {
    if (load.queue.length) return load.queued >= load.queue.length;
    return load.requests ? load.started >= load.requests : now - load.begun >= load.seconds_ns;
}

/* The queue is requests one behind the other, each after its length in four bytes. */
static void take_next(void) {
    unsigned char *at = (unsigned char *)load.queue.bytes + load.queued;
    if (load.queued + 4 > load.queue.length) fail("queue");
    size_t length = at[0] | at[1] << 8 | at[2] << 16 | (size_t)at[3] << 24;
    if (load.queued + 4 + length > load.queue.length) fail("queue");
    cut(&load.request);
    add(&load.request, (char *)at + 4, length);
    load.queued += 4 + length;
}

/* The next request, unless there have been enough, or none is due yet. */
static void begin(struct client *c) {
    int64_t now = now_ns();
    c->is_busy = 0;
    if (is_over(now)) return;
    if (load.rate > 0 && load.started >= (double)(now - load.begun) / 1e9 * load.rate) return;
    load.started++;
    if (load.queue.length) take_next();
    for (int i = 0; i < load.place_count; i++) {
        char digits[16];
        snprintf(digits, sizeof digits, "%08lld", (long long)(load.started % 100000000));
        memcpy(load.request.bytes + load.places[i], digits, 8);
    }
    renew(&c->answer);
    c->is_busy = 1;
    c->first_ns = 0;
    c->sent_ns = now_ns();
    size_t sent = 0;
    while (sent < load.request.length) { /* it is small: the socket has room for it */
        size_t left = load.request.length - sent;
        ssize_t n = send(c->fd, load.request.bytes + sent, left, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (n < 0) return; /* the reading side sees the end, and counts it */
        sent += n;
    }
}

static void finish(struct client *c, const char *fault, int chunks, int must_reopen) {
    int64_t now = now_ns();
    load.ended = now;
    if (fault) {
        note_error(fault, &c->answer);
    } else {
        note(&load.whole, now - c->sent_ns);
        note(&load.first, c->first_ns - c->sent_ns);
        load.chunks += chunks;
        load.bytes += c->answer.body.length;
    }
    if (must_reopen) reopen(c);
    begin(c);
}

static void on_answer(struct client *c) {
    static char buffer[1 << 18];
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        if (c->is_busy)
            finish(c, n ? strerror(errno) : "closed before the end", 0, 1);
        else
            close(c->fd);
        return;
    }
    if (!c->is_busy) return;
    load.reads++;
    take(&c->answer, buffer, n, 1);
    if (!c->first_ns && c->answer.body.length) c->first_ns = now_ns();
    if (c->answer.state == BROKEN) {
        finish(c, "not HTTP as we read it", 0, 1);
    } else if (c->answer.state == COMPLETE) {
        int chunks, closes = c->answer.closes;
        const char *fault = fault_of(&c->answer, &chunks);
        finish(c, fault, chunks, closes);
    }
}

static void print_json_text(const char *name, const char *value) {
    printf("\"%s\":\"", name);
    for (; *value; value++) {
        if (*value == '"' || *value == '\\') putchar('\\');
        putchar((unsigned char)*value < 32 ? ' ' : *value);
    }
    printf("\"");
}

static void report(void) {
    double seconds = (double)(load.ended - load.begun) / 1e9;
    double rate = seconds > 0 ? (double)load.whole.count / seconds : 0;
    printf("{\"count\":%zu,\"errors\":%lld,\"seconds\":%.3f,\"rps\":%.1f,", load.whole.count,
           (long long)load.errors, seconds, rate);
    printf("\"p50_us\":%.1f,\"p99_us\":%.1f,", percentile_us(&load.whole, 0.5),
           percentile_us(&load.whole, 0.99));
    printf("\"first_p50_us\":%.1f,\"first_p99_us\":%.1f,", percentile_us(&load.first, 0.5),
           percentile_us(&load.first, 0.99));
    printf("\"chunks\":%lld,\"reads\":%lld,\"bytes\":%lld,", (long long)load.chunks,
           (long long)load.reads, (long long)load.bytes);
    print_json_text("first_error", load.first_error);
    printf("}\n");
}

static int run_load(void) {
    char *at = load.request.bytes;
    while (!load.queue.length && load.place_count < 16 && (at = strstr(at, "########"))) {
        load.places[load.place_count++] = at - load.request.bytes;
        at += 8;
    }
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct client *clients = calloc(load.clients, sizeof *clients);
    for (int i = 0; i < load.clients; i++) open_client(&clients[i]);
    load.begun = load.ended = now_ns();
    for (int i = 0; i < load.clients; i++) begin(&clients[i]);
    int64_t deadline = load.begun + load.seconds_ns + load.limit_ns;
    for (;;) {
        int busy = 0;
        for (int i = 0; i < load.clients && !busy; i++) busy = clients[i].is_busy;
        if (!busy && is_over(now_ns())) break;
        if (now_ns() > deadline) {
            for (int i = 0; i < load.clients; i++)
                if (clients[i].is_busy) note_error("no answer in time", &clients[i].answer);
            break;
        }
        struct epoll_event found[EVENTS_AT_ONCE];
        int count = epoll_wait(poll_fd, found, EVENTS_AT_ONCE, load.rate > 0 ? 1 : 1000);
        for (int i = 0; i < count; i++) on_answer(found[i].data.ptr);
        for (int i = 0; i < load.clients && load.rate > 0; i++)
            if (!clients[i].is_busy) begin(&clients[i]);
    }
    report();
    return 0;
}

/* ---- the command line ------------------------------------------------------------------------ */

static const char USAGE[] =
    "usage: wire serve --port P [--tokens N]\n"
    "       wire load --port P --request FILE [--clients N] (--seconds S | --requests N)\n"
    "                 [--stream] [--events LEAST] [--limit SECONDS] [--rate PER_SECOND]\n"
    "       wire load --port P --queue FILE [--clients N] [--rate PER_SECOND] [--limit SECONDS]\n"
    "FILE is a whole HTTP/1.1 request; each ######## in it becomes a running number. That of\n"
    "--queue holds many, each after its length (four bytes, little-endian); each is sent once.\n";

static void read_file(const char *path, struct text *into) {
    FILE *file = fopen(path, "rb");
    if (!file) fail(path);
    char buffer[4096];
    size_t n;
    while ((n = fread(buffer, 1, sizeof buffer, file))) add(into, buffer, n);
    fclose(file);
    errno = 0;
    if (!into->length) fail(path);
}

static void wrong_usage(void) {
    fputs(USAGE, stderr);
    exit(2);
}

int main(int count, char **words) {
    if (count < 2) wrong_usage();
    signal(SIGPIPE, SIG_IGN);
    for (int i = 2; i < count; i++) {
        if (!strcmp(words[i], "--stream")) {
            load.wants_stream = 1;
            continue;
        }
        if (i + 1 == count) wrong_usage();
        const char *name = words[i], *value = words[++i];
        if (!strcmp(name, "--port")) load.port = atoi(value);
        else if (!strcmp(name, "--clients")) load.clients = atoi(value);
        else if (!strcmp(name, "--seconds")) load.seconds_ns = (int64_t)(atof(value) * 1e9);
        else if (!strcmp(name, "--requests")) load.requests = atoll(value);
        else if (!strcmp(name, "--events")) load.events = atoi(value);
        else if (!strcmp(name, "--tokens")) whole_tokens = atoi(value);
        else if (!strcmp(name, "--limit")) load.limit_ns = (int64_t)(atof(value) * 1e9);
        else if (!strcmp(name, "--rate")) load.rate = atof(value);
        else if (!strcmp(name, "--request")) read_file(value, &load.request);
        else if (!strcmp(name, "--queue")) read_file(value, &load.queue);
        else wrong_usage();
    }
    if (!load.port || load.clients < 1 || whole_tokens < 1) wrong_usage();
    if (!strcmp(words[1], "serve")) serve(load.port);
    int is_endless = !load.queue.length && !load.requests && !load.seconds_ns;
    if (strcmp(words[1], "load") || !(load.request.length || load.queue.length) || is_endless)
        wrong_usage();
    return run_load();
}
