/*
 * A hostile vhost-user front-end against the server.
 *
 * The input is a list of messages, mostly well-formed: request, flags, small
 * values in the payload, descriptors of the right or of a wrong kind; between
 * them kicks, pokes into the shared memory and into the region of requests in
 * flight, logs that begin and end, cuts of files, and connections that begin
 * again with what the last one has left. The first byte says how it begins.
 * Besides what the sanitizers see: an honest front-end is served afterwards.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <glib.h>

#include "aio/loop.h"
#include "hw/runstate.h"
#include "hw/vhost_user_blk.h"
#include "tests/unit/lib/guest_disk.h"
#include "tests/unit/lib/vhost_client.h"

#define PACKED VIRTIO_BIT(VIRTIO_F_RING_PACKED)

#define CHECK(x)     \
    do {             \
        if (!(x)) {  \
            abort(); \
        }            \
    } while (0)

enum { QUEUE = 8, MAX_STEPS = 60, LOG = 8192, LOG_OFFSET = 512 };

static struct loop *loop;
static char *path, *name; /* the same, as client and server want it */
static int log_fd;
static struct vhost_client client;

struct script {
    const uint8_t *at;
    size_t left;
};

static uint8_t u8(struct script *s)
{
    if (!s->left) {
        return 0;
    }
    s->left--;
    return *s->at++;
}

static void pass(void *opaque)
{
    loop_pass(loop, false);
}

static void settle(void)
{
    for (unsigned i = 0; i < 12; i++) {
        loop_pass(loop, false);
    }
}

static GLogWriterOutput silence(GLogLevelFlags level, const GLogField *fields,
                                gsize n, gpointer opaque)
{
    return G_LOG_WRITER_HANDLED;
}

static void co_set_up(void *opaque)
{
    struct virtio_blk_props props = {
        .num_queues = 2, .queue_size = QUEUE, .packed = true};
    struct vhost_user_address address = {
        .path = path, .abstract = true, .fd = -1};

    co_guest_disk_new(128 * 1024, false);
    CHECK(
        co_vhost_user_server_new("fuzz", &props, disk.backend, &address, NULL));
    co_vm_start();
}

static void set_up(void)
{
    g_log_set_writer_func(silence, NULL, NULL);
    loop = loop_new("fuzz", LOOP_CLOCK_SIMULATED);
    path = g_strdup_printf("varve-fuzz-%d", getpid());
    name = g_strconcat("@", path, NULL);
    log_fd = memfd_create("log", MFD_CLOEXEC);
    CHECK(log_fd >= 0);
    loop_run_co(loop, co_set_up, NULL);
    loop_bind(loop);
}

/* A number that is small, at a border, or an address of the memory. */
static uint64_t value(struct script *s)
{
    uint8_t kind = u8(s);
    uint64_t n = u8(s);

    switch (kind % 6) {
    case 0:
        return n;
    case 1:
        return n << (kind / 6);
    case 2:
        return VHOST_CLIENT_USER + n * 16;
    case 3:
        return VHOST_CLIENT_GPA + n * 4096;
    case 4:
        return client.region_bytes - n;
    default:
        return ~n;
    }
}

static void message(struct script *s)
{
    static const uint32_t sizes[] = {0, 8, 40, 12, 13, 72, 20, 24, 16};
    uint32_t request = u8(s) % 42, size = u8(s), flags = u8(s) & 0xc;
    uint32_t bytes = size < 200 ? sizes[size % G_N_ELEMENTS(sizes)] : size;
    uint64_t payload[40] = {0};
    unsigned n = 0, want = u8(s);
    int fds[3];

    for (unsigned i = 0; i < 6 && s->left; i++) {
        payload[i] = want & 64 ? value(s) : u8(s) | (uint64_t)u8(s) << 32;
    }
    for (; n < want % 4 && n < G_N_ELEMENTS(fds); n++) {
        fds[n] = want & 16 && client.ram_fd >= 0
                     ? dup(client.ram_fd)
                     : eventfd(want & 32, EFD_CLOEXEC | EFD_NONBLOCK);
    }
    vhost_client_send(&client, request, flags, payload, MIN(bytes, 320), fds,
                      n);
    while (n--) {
        close(fds[n]);
    }
}

/* The region is ours: any of its bytes may be wrong. */
static void poke_region(struct script *s)
{
    uint16_t at = u8(s) | (client.features & PACKED ? u8(s) & 1 : 0) << 8;
    uint8_t byte = u8(s);

    if (client.inflight_region && at < client.inflight.mmap_size) {
        client.inflight_region[at] = byte;
    }
}

/* A new log, another one, or none, of this size or that. */
static void change_log(struct script *s)
{
    uint8_t how = u8(s);
    struct vhost_user_log_area area = {how & 1 ? LOG : value(s),
                                       how & 2 ? LOG_OFFSET : value(s)};
    uint64_t features =
        client.features ^ (how & 4 ? VIRTIO_BIT(VHOST_F_LOG_ALL) : 0);

    CHECK(!ftruncate(log_fd, how & 8 ? LOG / 2 : LOG + LOG_OFFSET));
    vhost_client_send(&client, VHOST_USER_SET_LOG_BASE, 0, &area, sizeof(area),
                      &log_fd, 1);
    vhost_client_send(&client, VHOST_USER_SET_FEATURES, 0, &features,
                      sizeof(features), NULL, 0);
    settle();
    if (how & 16) {
        CHECK(!ftruncate(log_fd, 0));
    }
}

/* Goes away in the middle, and comes back with what it has. */
static void return_with_region(struct script *s)
{
    if (client.num_queues && client.queues[0].kick >= 0 &&
        lseek(client.ram_fd, 0, SEEK_END) == (off_t)client.ram_bytes) {
        vhost_client_lose(&client);
        settle();
        guest_disk_open_gate(); /* the server waits for what is in flight */
        settle();
        for (unsigned n = u8(s) % 4; n; n--) {
            poke_region(s);
        }
        vhost_client_return(&client, name);
    }
}

static void some_requests(struct script *s)
{
    uint8_t n = u8(s) % 4;
    static int status[4];

    if (!client.num_queues ||
        lseek(client.ram_fd, 0, SEEK_END) != (off_t)client.ram_bytes) {
        return;
    }
    for (unsigned i = 0; i < n; i++) {
        vhost_client_submit(&client, 0, VIRTIO_BLK_T_OUT, i, NULL, 512,
                            &status[i]);
    }
    vhost_client_kick(&client, 0);
}

static void step(struct script *s)
{
    uint8_t what = u8(s);

    switch (what % 12) {
    case 0:
        settle();
        break;
    case 1:
        if (client.queues[0].kick >= 0) {
            eventfd_write(client.queues[what & 8 ? 1 : 0].kick, 1);
        }
        break;
    case 2: { /* the rings and what is next to them */
        uint8_t at = u8(s), byte = u8(s);

        if (client.ram && lseek(client.ram_fd, 0, SEEK_END) > 4096) {
            client.ram[at * 4] = byte;
        }
        break;
    }
    case 3:
        if (what & 64 && client.ram_fd >= 0) {
            CHECK(!ftruncate(client.ram_fd, what & 128 ? 0 : 8192));
        }
        break;
    case 8:
        poke_region(s);
        break;
    case 9:
        return_with_region(s);
        break;
    case 10:
        some_requests(s);
        break;
    case 11:
        change_log(s);
        break;
    default:
        message(s);
    }
}

static void reconnect(void)
{
    vhost_client_close(&client);
    settle();
    CHECK(vhost_client_connect(&client, name, pass, NULL));
}

/* With split rings, if packed ones are left out. */
static void start_queues(unsigned n, uint64_t without)
{
    CHECK(vhost_client_negotiate(&client, without, 0));
    CHECK(vhost_client_share_memory(&client, n, QUEUE, false));
    for (unsigned i = 0; i < n; i++) {
        CHECK(vhost_client_start_queue(&client, i,
                                       vhost_client_base(&client, 0)));
    }
}

static void begin(uint8_t how)
{
    uint64_t without = how & 64 ? 0 : PACKED;

    CHECK(vhost_client_connect(&client, name, pass, NULL));
    client.log_rings = how & 16;
    client.log_shift = how & 32 ? UINT64_C(0x8000000) : 0;
    if (how & 4) {
        CHECK(vhost_client_negotiate(&client, without, 0));
        CHECK(vhost_client_share_memory(&client, 1, QUEUE, false));
        CHECK(vhost_client_get_inflight(&client, 1, QUEUE));
        CHECK(vhost_client_start_queue(&client, 0,
                                       vhost_client_base(&client, 0)));
        disk.gate = how & 8;
    } else if (how & 1) {
        start_queues(2, without);
    } else if (how & 2) {
        CHECK(vhost_client_negotiate(&client, without, 0));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct script s = {data, size};
    uint8_t buf[512] = {1};

    if (!loop) {
        set_up();
    }
    uint8_t how = u8(&s);
    begin(how);
    for (unsigned i = 0; s.left && i < MAX_STEPS; i++) {
        step(&s);
    }
    settle();
    guest_disk_open_gate();
    reconnect();
    start_queues(1, how & 128 ? 0 : PACKED);
    CHECK(vhost_client_io(&client, 0, VIRTIO_BLK_T_OUT, 3, buf, 512) == 0);
    CHECK(disk.data[3 * 512] == 1);
    vhost_client_close(&client);
    settle();
    return 0;
}
