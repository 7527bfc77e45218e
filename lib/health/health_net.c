/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The side channel between nodes: a rank's watchdog listens, connections are made
 * when there is something to say, one request and one answer of a fixed head and
 * some bytes.  It needs neither MPI nor any thread but the watchdogs.
 *
 * Who asks keeps answering: two ranks that ask each other would else wait for each
 * other.  Strangers do not know the job's number, and get no answer.
 */

#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "health/health_impl.h"

enum { CONNECT, SEND_HEAD, SEND_BODY, RECV_HEAD, RECV_BODY, DONE };
enum { MAX_ADDRESSES = 4, TURNS = 4 };

/* Of the watchdog's thread. */
static _Thread_local __attribute__((tls_model("initial-exec"))) int serves;

static const int64_t MS = 1000000;
static const int64_t ROUND = 1000000000; /* for one rank of each node to answer */

static void note_address(struct pldi_health_card *card, const struct ifaddrs *i)
{
    const int n = card->addresses;
    const int family = i->ifa_addr != NULL ? i->ifa_addr->sa_family : AF_UNSPEC;

    if (n == MAX_ADDRESSES || !(i->ifa_flags & IFF_UP) || (i->ifa_flags & IFF_LOOPBACK))
        return;
    if (family == AF_INET)
        memcpy(card->address[n].bytes,
               &((const struct sockaddr_in *)(const void *)i->ifa_addr)->sin_addr, 4);
    else if (family == AF_INET6 &&
             !IN6_IS_ADDR_LINKLOCAL(
                 &((const struct sockaddr_in6 *)(const void *)i->ifa_addr)->sin6_addr))
        memcpy(card->address[n].bytes,
               &((const struct sockaddr_in6 *)(const void *)i->ifa_addr)->sin6_addr, 16);
    else
        return;
    card->address[n].family = (uint16_t)family;
    card->addresses++;
}

static int open_listener(void)
{
    struct sockaddr_in6 any = {.sin6_family = AF_INET6};
    struct sockaddr_in any4 = {.sin_family = AF_INET};
    const int type = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
    const int off = 0;
    int fd = socket(AF_INET6, type, 0);

    if (fd >= 0) {
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
        if (bind(fd, (struct sockaddr *)&any, sizeof(any)) == 0 && listen(fd, 64) == 0)
            return fd;
        (void)close(fd);
    }
    fd = socket(AF_INET, type, 0);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&any4, sizeof(any4)) == 0 && listen(fd, 64) == 0)
        return fd;
    if (fd >= 0)
        (void)close(fd);
    return -1;
}

int pldi_net_listen(struct pldi_health *h, struct pldi_health_card *card)
{
    struct ifaddrs *all = NULL;
    union {
        struct sockaddr_in6 six;
        struct sockaddr_in four;
        struct sockaddr any;
    } name;
    socklen_t length = sizeof(name);

    h->listener = open_listener();
    if (h->listener < 0 || getsockname(h->listener, &name.any, &length) != 0)
        return pldi_fail(PLD_ERR_TRANSPORT, "no socket for other nodes to ask: %s",
                         strerror(errno));
    card->port = ntohs(name.any.sa_family == AF_INET6 ? name.six.sin6_port : name.four.sin_port);
    if (getifaddrs(&all) == 0) {
        for (const struct ifaddrs *i = all; i != NULL; i = i->ifa_next)
            note_address(card, i);
        freeifaddrs(all);
    }
    return PLD_OK;
}

/* ---- Answering ---- */

static int transfer(int fd, void *data, size_t bytes, int sending)
{
    unsigned char *at = data;

    while (bytes > 0) {
        const ssize_t n = sending ? send(fd, at, bytes, MSG_NOSIGNAL) : recv(fd, at, bytes, 0);

        if (n <= 0)
            return 0;
        at += n;
        bytes -= (size_t)n;
    }
    return 1;
}

static size_t node_stands(const struct pldi_health *h, struct pldi_stand *out)
{
    size_t n = 0;

    for (int r = 0; r < h->size; r++) {
        if (h->peers[r].ring != NULL)
            pldi_stand_of(h, r, &out[n++]);
    }
    return n * sizeof(*out);
}

static void heed_alarm(struct pldi_health *h, char *text)
{
    text[PLDI_RING_REPORT - 1] = '\0';
    pldi_report_alarm(h, text);
}

/* The body came in `body`, which has room for an answer, too. */
static void answer(struct pldi_health *h, struct pldi_ask_head *head, void *body)
{
    size_t bytes = 0;

    head->value = 1;
    if (head->type == PLDI_ASK_TIME)
        head->value = pldi_health_now();
    else if (head->type == PLDI_ASK_CLAIM)
        head->value = pldi_report_claim(h, head->from);
    else if (head->type == PLDI_ASK_STANDS)
        bytes = node_stands(h, body);
    else if (head->type == PLDI_ASK_ALARM)
        heed_alarm(h, body);
    else if (head->type == PLDI_ASK_GONE)
        pldi_watch_heard(h, head->arg);
    head->bytes = (uint32_t)bytes;
}

static void serve_one(struct pldi_health *h, int fd)
{
    const size_t stands = (size_t)h->size * sizeof(struct pldi_stand);
    const size_t room = stands > PLDI_RING_REPORT ? stands : PLDI_RING_REPORT;
    const struct timeval half = {0, 500000};
    struct pldi_ask_head head;
    void *body = pldi_alloc(room, 1, "an answer");

    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &half, sizeof(half));
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &half, sizeof(half));
    if (body != NULL && transfer(fd, &head, sizeof(head), 0) && head.job == h->ring->u.head.job &&
        head.bytes <= PLDI_RING_REPORT && transfer(fd, body, head.bytes, 0)) {
        answer(h, &head, body);
        if (transfer(fd, &head, sizeof(head), 1))
            (void)transfer(fd, body, head.bytes, 1);
    }
    pldi_free(body);
    (void)close(fd);
}

static void serve(struct pldi_health *h)
{
    for (int i = 0; i < TURNS; i++) {
        const int fd = accept4(h->listener, NULL, NULL, SOCK_CLOEXEC);

        if (fd < 0)
            return;
        serve_one(h, fd);
    }
}

void pldi_net_serve(struct pldi_health *h, int64_t ns)
{
    struct pollfd p[2] = {{.fd = h->wake, .events = POLLIN}, {.fd = h->listener, .events = POLLIN}};
    eventfd_t count;

    serves = 1;
    if (poll(p, 2, (int)(ns / MS)) <= 0)
        return;
    if (p[0].revents)
        (void)eventfd_read(h->wake, &count);
    if (p[1].revents)
        serve(h);
}

/* ---- Asking ---- */

/* Address n of a rank; 0: there are no more. */
static socklen_t address_of(const struct pldi_health *h, const struct pldi_ask *ask, int n,
                            struct sockaddr_storage *out)
{
    const struct pldi_health_card *card = &h->peers[ask->rank].card;
    struct sockaddr_in *four = (void *)out;
    struct sockaddr_in6 *six = (void *)out;
    const int local = strcmp(card->host, h->peers[h->rank].card.host) == 0;

    memset(out, 0, sizeof(*out));
    four->sin_family = AF_INET;
    four->sin_port = htons(card->port);
    if (local && n == 0) {
        four->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        return sizeof(*four);
    }
    n -= local;
    if (n >= card->addresses || n >= MAX_ADDRESSES)
        return 0;
    if (card->address[n].family == AF_INET) {
        memcpy(&four->sin_addr, card->address[n].bytes, 4);
        return sizeof(*four);
    }
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(card->port);
    memcpy(&six->sin6_addr, card->address[n].bytes, 16);
    return sizeof(*six);
}

static void end_ask(struct pldi_ask *ask, int result)
{
    if (ask->fd >= 0)
        (void)close(ask->fd);
    ask->fd = -1;
    ask->state = DONE;
    ask->result = result;
}

/* Begin with the next address that a connection can be begun to. */
static void dial(const struct pldi_health *h, struct pldi_ask *ask)
{
    struct sockaddr_storage to;
    socklen_t length;

    if (ask->fd >= 0)
        (void)close(ask->fd);
    ask->fd = -1;
    ask->moved = 0;
    ask->state = CONNECT;
    while ((length = address_of(h, ask, ask->address++, &to)) > 0) {
        ask->fd = socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (ask->fd < 0)
            continue;
        if (connect(ask->fd, (struct sockaddr *)&to, length) == 0 || errno == EINPROGRESS)
            return;
        (void)close(ask->fd);
        ask->fd = -1;
    }
    end_ask(ask, 0);
}

/* Move bytes of the current part: 1: it is through, 0: not yet, -1: the connection is lost. */
static int move(struct pldi_ask *ask, void *data, size_t bytes, int sending)
{
    while (ask->moved < bytes) {
        char *at = (char *)data + ask->moved;
        const size_t left = bytes - ask->moved;
        const ssize_t n =
            sending ? send(ask->fd, at, left, MSG_NOSIGNAL) : recv(ask->fd, at, left, 0);

        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
            return 0;
        if (n <= 0)
            return -1;
        ask->moved += (size_t)n;
    }
    ask->moved = 0;
    return 1;
}

static int connected(const struct pldi_ask *ask)
{
    socklen_t length = sizeof(int);
    int error = 0;

    if (getsockopt(ask->fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0)
        return -1;
    return error == 0 ? 1 : -1;
}

static int step_ask(struct pldi_ask *ask)
{
    switch (ask->state) {
    case CONNECT:
        return connected(ask);
    case SEND_HEAD:
        return move(ask, &ask->head, sizeof(ask->head), 1);
    case SEND_BODY:
        return move(ask, (void *)(uintptr_t)ask->out, ask->out_bytes, 1);
    case RECV_HEAD:
        return move(ask, &ask->head, sizeof(ask->head), 0);
    default:
        if (ask->head.bytes > ask->in_room)
            return -1;
        return move(ask, ask->in, ask->head.bytes, 0);
    }
}

static void go_on(const struct pldi_health *h, struct pldi_ask *ask)
{
    int rc = 1;

    while (rc > 0 && ask->state != DONE) {
        rc = step_ask(ask);
        if (rc < 0 && ask->state == CONNECT)
            dial(h, ask);
        else if (rc < 0)
            end_ask(ask, 0);
        else if (rc > 0)
            ask->state++;
    }
    if (rc > 0 && ask->state == DONE) {
        ask->in_bytes = ask->head.bytes;
        ask->value = ask->head.value;
        end_ask(ask, 1);
    }
}

static void begin(const struct pldi_health *h, struct pldi_ask *ask)
{
    ask->fd = -1;
    ask->address = ask->result = 0;
    ask->head = (struct pldi_ask_head){.job = h->ring->u.head.job,
                                       .type = (uint32_t)ask->type,
                                       .bytes = (uint32_t)ask->out_bytes,
                                       .from = h->rank,
                                       .arg = ask->arg};
    dial(h, ask);
}

/* Wait for any of them, or to be asked; 0: none is left. */
static int wait_any(struct pldi_health *h, struct pldi_ask *asks, int n, struct pollfd *p,
                    int64_t ns)
{
    int active = 0;

    for (int i = 0; i < n; i++) {
        const int out = asks[i].state <= SEND_BODY;

        p[i] = (struct pollfd){.fd = asks[i].fd, .events = out ? POLLOUT : POLLIN};
        active += asks[i].state != DONE;
    }
    /* Callers' threads ask, too, while the watchdog serves. */
    p[n] = (struct pollfd){.fd = serves ? h->listener : -1, .events = POLLIN};
    if (active == 0)
        return 0;
    if (poll(p, (nfds_t)n + 1, (int)(ns / MS) + 1) <= 0)
        return 1;
    if (p[n].revents)
        serve(h);
    for (int i = 0; i < n; i++) {
        if (p[i].revents && asks[i].state != DONE)
            go_on(h, &asks[i]);
    }
    return 1;
}

void pldi_net_ask(struct pldi_health *h, struct pldi_ask *asks, int n, int64_t ns)
{
    const int64_t until = pldi_health_now() + ns;
    struct pollfd *p = pldi_alloc((size_t)n + 1, sizeof(*p), "questions");
    int64_t now = until - ns;

    for (int i = 0; i < n; i++) {
        begin(h, &asks[i]);
        if (p == NULL)
            end_ask(&asks[i], 0);
    }
    while (p != NULL && now < until && !atomic_load(&h->stop) &&
           wait_any(h, asks, n, p, until - now))
        now = pldi_health_now();
    for (int i = 0; i < n; i++) {
        if (asks[i].state != DONE)
            end_ask(&asks[i], 0);
    }
    pldi_free(p);
}

void pldi_net_ask_nodes(struct pldi_health *h, struct pldi_ask *asks, int n,
                        void (*each)(struct pldi_health *h, const struct pldi_ask *ask, void *to),
                        void *to)
{
    while (n > 0 && !atomic_load(&h->stop)) {
        int left = 0;

        pldi_net_ask(h, asks, n, ROUND);
        for (int i = 0; i < n; i++) {
            const int node = h->peers[asks[i].rank].node;

            if (asks[i].result) {
                if (each != NULL)
                    each(h, &asks[i], to);
                continue;
            }
            do
                asks[i].rank++;
            while (asks[i].rank < h->size && h->peers[asks[i].rank].node != node);
            if (asks[i].rank < h->size)
                asks[left++] = asks[i];
        }
        n = left;
    }
}
