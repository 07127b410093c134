/*
 * Another way to be open: for reading only or for writing, with or without the
 * page cache.
 *
 * A new descriptor of the same file, whatever its name is by now, takes the
 * place of the old one. Locks have a descriptor of their own and stay. Runs on
 * the node's loop; the node is drained.
 */
#include "block/drivers/file/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
#include "block/graph.h"
#include "util/error.h"

struct reopen_work {
    struct node *node;
    const struct node_reopen *to;
};

/* What parents need they get with their permissions. */
static bool by_need(const struct node_settings *to)
{
    return to->auto_read_only && !to->read_only;
}

static int do_prepare(void *opaque)
{
    const struct reopen_work *w = opaque;
    struct file_state *s = w->node->state;
    const struct node_settings *to = w->to->settings;
    bool writable = !to->read_only, need = by_need(to);
    int direct = to->cache_direct ? O_DIRECT : 0;
    int now = fcntl(s->fd, F_GETFL);
    char path[40];

    if (now < 0) {
        return -errno;
    }
    if ((now & O_DIRECT) == direct &&
        (need || writable == file_is_writable(s->fd))) {
        return 0;
    }
    snprintf(path, sizeof(path), "/proc/self/fd/%d", s->fd);
    s->next.fd =
        open(path, O_CLOEXEC | direct | (writable ? O_RDWR : O_RDONLY));
    if (s->next.fd < 0 && need) {
        s->next.fd = open(path, O_CLOEXEC | direct | O_RDONLY);
    }
    if (s->next.fd < 0) {
        return -errno;
    }
    s->next.direct = direct;
    s->next.request_alignment = s->next.memory_alignment = 0;
    if (direct) {
        file_find_alignment(s->next.fd, s->is_device, w->node->length,
                            &s->next.request_alignment,
                            &s->next.memory_alignment);
    }
    return 0;
}

static bool co_file_reopen_prepare(struct node *node,
                                   const struct node_reopen *to, GError **error)
{
    struct file_state *s = node->state;
    struct reopen_work w = {node, to};

    if (s->engine == FILE_ENGINE_LIBAIO && !to->settings->cache_direct) {
        return error_set(error, "aio=native was specified, but it requires "
                                "cache.direct=on, which was not specified.");
    }
    s->next.was_by_need = s->access_by_need;
    int ret = co_worker(do_prepare, &w);
    if (ret == 0) {
        s->access_by_need = by_need(to->settings);
        s->writable = file_is_writable(s->fd);
    }
    return ret == 0 || error_set_errno(error, ret, "Could not reopen file");
}

static int do_close(void *opaque)
{
    return close(*(int *)opaque);
}

static void co_close(int *fd)
{
    if (*fd >= 0) {
        co_worker(do_close, fd);
        *fd = -1;
    }
}

static void co_file_reopen_commit(struct node *node,
                                  const struct blockdev_options *options)
{
    struct file_state *s = node->state;
    int old = s->fd;

    if (s->next.fd < 0) {
        return;
    }
    s->fd = s->next.fd;
    s->next.fd = -1;
    s->writable = file_is_writable(s->fd);
    s->direct = s->next.direct;
    node->limits.request_alignment = s->next.request_alignment;
    node->limits.memory_alignment = s->next.memory_alignment;
    graph_limits_changed(node);
    co_close(&old);
}

static void co_file_reopen_abort(struct node *node)
{
    struct file_state *s = node->state;

    s->access_by_need = s->next.was_by_need;
    co_close(&s->next.fd);
}

const struct reopen_ops file_reopen_ops = {
    .co_prepare = co_file_reopen_prepare,
    .co_commit = co_file_reopen_commit,
    .co_abort = co_file_reopen_abort,
};
