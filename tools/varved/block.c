/*
 * --blockdev, -drive and -device: what they say is checked here, on the main
 * thread, and made on the graph's loop.
 */
#include <string.h>

#include "aio/iothread.h"
#include "aio/throttle.h"
#include "block/backend.h"
#include "block/node.h"
#include "block/objects.h"
#include "hw/virtio_blk.h"
#include "qapi/options.h"
#include "qmp/monitor.h"
#include "tools/common/image.h"
#include "tools/varved/daemon.h"
#include "util/error.h"
#include "util/keyval.h"

/* ---- --blockdev ---- */

struct blockdev_call {
    const struct blockdev_options *options;
    bool ok;
    GError **error;
};

static void co_blockdev(void *opaque)
{
    struct blockdev_call *c = opaque;
    c->ok = co_monitor_add_node(c->options, c->error);
}

enum option_result apply_blockdev(struct daemon *d, const char *value,
                                  GError **error)
{
    if (!strcmp(value, "help")) {
        return error_set(error, "Help is not available for this option");
    }
    qapi_auto(blockdev_options) options =
        qapi_blockdev_options_parse(value, error);
    if (!options) {
        return OPTION_FAILED;
    }
    struct blockdev_call c = {.options = options, .error = error};
    daemon_call_graph(d, co_blockdev, &c);
    return c.ok ? OPTION_OK : OPTION_FAILED;
}

/* ---- --export ---- */

struct export_call {
    const struct block_export_options *options;
    struct loop *iothread;
    bool ok;
    GError **error;
};

static void co_export(void *opaque)
{
    struct export_call *c = opaque;
    c->ok = co_monitor_add_export(c->options, c->iothread, c->error);
}

enum option_result apply_export(struct daemon *d, const char *value,
                                GError **error)
{
    if (!strcmp(value, "help")) {
        return error_set(error, "Help is not available for this option");
    }
    qapi_auto(block_export_options) options = qapi_options_parse(
        &qapi_type_block_export_options, value, "type", error);
    if (!options) {
        return OPTION_FAILED;
    }
    struct export_call c = {
        .options = options,
        .iothread = object_loop(options->iothread),
        .error = error,
    };
    daemon_call_graph(d, co_export, &c);
    return c.ok ? OPTION_OK : OPTION_FAILED;
}

/* ---- -drive ---- */

struct drive {
    const char *id, *interface;
    bool has_node;    /* else an empty one */
    GPtrArray *pairs; /* of the image: not owned */
    enum blockdev_on_error werror, rerror;
    struct throttle_config limits;
    char *throttle_group;    /* or NULL */
    struct backend *backend; /* result */
    GError **error;
};

/* Keys of -drive that say where a disk is in a machine. */
static const char *const placement[] = {"index", "bus", "unit", "addr", NULL};
/* Options that mean something only if there is a file. */
static const char *const empty_ok[] = {"file",
                                       "cache",
                                       "aio",
                                       "discard",
                                       "detect-zeroes",
                                       "read-only",
                                       "auto-read-only",
                                       "cache.direct",
                                       "cache.no-flush",
                                       NULL};

static bool on_error(const char *text, bool is_read,
                     enum blockdev_on_error *action, GError **error)
{
    if (!text) {
        *action = is_read ? BLOCKDEV_ON_ERROR_REPORT : BLOCKDEV_ON_ERROR_ENOSPC;
        return true;
    }
    if (blockdev_on_error_parse(text, action) &&
        *action != BLOCKDEV_ON_ERROR_AUTO &&
        !(is_read && *action == BLOCKDEV_ON_ERROR_ENOSPC)) {
        return true;
    }
    return error_set(error, "'%s' invalid %s error action", text,
                     is_read ? "read" : "write");
}

/* Features that change what a guest sees: refused, unless switched off. */
static bool refuse_if_on(const GPtrArray *pairs, const char *key,
                         GError **error)
{
    bool value;
    if (!pairs_bool(pairs, key, false, &value, error)) {
        return false;
    }
    return !value || error_set(error, "Parameter '%s' is not supported", key);
}

/* Moves a key's pair out of the list of image options. */
static void drop(GPtrArray *pairs, const char *key)
{
    for (guint i = pairs->len; i-- > 0;) {
        if (!strcmp(((struct keyval *)pairs->pdata[i])->key, key)) {
            g_ptr_array_remove_index(pairs, i);
        }
    }
}

static void put(GPtrArray *pairs, const char *key, const char *value)
{
    struct keyval *pair = g_new(struct keyval, 1);
    *pair = (struct keyval){.key = g_strdup(key), .value = g_strdup(value)};
    g_ptr_array_add(pairs, pair);
}

static bool check_interface(const struct drive *dr, const GPtrArray *pairs,
                            GError **error)
{
    static const char *const machine[] = {"ide",    "scsi", "sd",  "floppy",
                                          "pflash", "mtd",  "xen", NULL};
    const char *unit = pairs_find(pairs, "index");

    if (!strcmp(dr->interface, "none") || !strcmp(dr->interface, "virtio")) {
        return true;
    }
    if (g_strv_contains(machine, dr->interface)) {
        return error_set(error,
                         "machine type does not support if=%s,bus=0,unit=%s",
                         dr->interface, unit ? unit : "0");
    }
    return error_set(error, "unsupported bus type '%s'", dr->interface);
}

static bool check_words(const GPtrArray *pairs, GError **error)
{
    static const char *const aios[] = {"threads", "native", "io_uring", NULL};
    const char *aio = pairs_find(pairs, "aio");
    const char *media = pairs_find(pairs, "media");
    const char *cache = pairs_find(pairs, "cache");
    bool ignored;

    if (media && strcmp(media, "disk") && strcmp(media, "cdrom")) {
        return error_set(error, "'%s' invalid media", media);
    }
    if (cache && !cache_mode_find(cache)) {
        return error_set(error, "invalid cache option");
    }
    if (aio && !g_strv_contains(aios, aio)) {
        return error_set(error, "invalid aio option");
    }
    return pairs_bool(pairs, "read-only", false, &ignored, error) &&
           pairs_bool(pairs, "auto-read-only", false, &ignored, error) &&
           pairs_bool(pairs, "cache.direct", false, &ignored, error) &&
           pairs_bool(pairs, "cache.no-flush", false, &ignored, error) &&
           refuse_if_on(pairs, "copy-on-read", error) &&
           refuse_if_on(pairs, "snapshot", error);
}

/* What is left describes the image alone. */
static bool split_drive(struct drive *dr, GPtrArray *pairs, GError **error)
{
    for (guint i = 0; i < pairs->len; i++) {
        struct keyval *pair = pairs->pdata[i];
        if (!strcmp(pair->key, "readonly")) {
            g_free(pair->key);
            pair->key = g_strdup("read-only");
        }
    }
    if (!check_words(pairs, error) ||
        !on_error(pairs_find(pairs, "werror"), false, &dr->werror, error) ||
        !on_error(pairs_find(pairs, "rerror"), true, &dr->rerror, error) ||
        !check_interface(dr, pairs, error) ||
        !pairs_take_throttle(pairs, &dr->limits, &dr->throttle_group, error)) {
        return false;
    }
    bool cdrom = !g_strcmp0(pairs_find(pairs, "media"), "cdrom");
    static const char *const own[] = {"id",     "if",       "media", "werror",
                                      "rerror", "snapshot", "boot",  NULL};
    drop(pairs, "copy-on-read");
    for (size_t i = 0; own[i]; i++) {
        drop(pairs, own[i]);
    }
    for (size_t i = 0; placement[i]; i++) {
        drop(pairs, placement[i]);
    }
    const char *file = pairs_find(pairs, "file");
    dr->has_node = file && *file;
    for (guint i = 0; i < pairs->len && !dr->has_node; i++) {
        const char *key = ((struct keyval *)pairs->pdata[i])->key;
        dr->has_node = !g_strv_contains(empty_ok, key);
    }
    if (cdrom && !pairs_find(pairs, "read-only")) {
        put(pairs, "read-only", "on");
    }
    if (!pairs_find(pairs, "auto-read-only")) {
        put(pairs, "auto-read-only", "on");
    }
    return true;
}

static void co_drive(void *opaque)
{
    struct drive *dr = opaque;
    struct open_defaults defaults = {0};
    bool writethrough = false;
    struct node *node = NULL;

    if (dr->has_node) {
        qapi_auto(blockdev_options) options = co_image_options(
            dr->pairs, &defaults.probed, &writethrough, dr->error);
        node =
            options ? co_node_open_with(options, &defaults, dr->error) : NULL;
        if (!node) {
            return;
        }
    }
    /* Whoever writes to it, a device or a command, takes the permission then.
     */
    dr->backend =
        co_backend_new(dr->id, node, PERM_CONSISTENT_READ, PERM_ALL, dr->error);
    if (dr->backend) {
        dr->backend->read_only = node && node->read_only;
        dr->backend->on_write_error = dr->werror;
        dr->backend->on_read_error = dr->rerror;
        dr->backend->write_cache = !writethrough;
        backend_set_throttle(dr->backend, dr->throttle_group, &dr->limits);
    }
    if (node) {
        co_node_unref(node);
    }
}

static bool taken(const struct daemon *d, const char *id)
{
    for (guint i = 0; i < d->drives->len; i++) {
        const struct backend *b = d->drives->pdata[i];
        if (!strcmp(b->name, id)) { /* a name never changes */
            return true;
        }
    }
    return false;
}

enum option_result apply_drive(struct daemon *d, const char *value,
                               GError **error)
{
    g_autoptr(GPtrArray) pairs = keyval_split(value, NULL, error);
    struct drive dr = {.pairs = pairs, .error = error};

    if (!pairs) {
        return OPTION_FAILED;
    }
    if (!g_strcmp0(pairs_find(pairs, "format"), "help")) {
        g_print("Supported formats:");
        for (size_t i = 0; block_drivers[i]; i++) {
            g_print(" %s", block_drivers[i]->name);
        }
        g_print("\n");
        return OPTION_ANSWERED;
    }
    const char *interface = pairs_find(pairs, "if");
    const char *id = pairs_find(pairs, "id");
    g_autofree char *kept = g_strdup(interface ? interface : "none");
    g_autofree char *name = NULL;

    dr.interface = kept;
    if (id && !check_id(id, error)) {
        return OPTION_FAILED;
    }
    if (id && taken(d, id)) {
        return error_set(error, "Duplicate ID '%s' for drive", id);
    }
    name = id ? g_strdup(id)
              : g_strdup_printf("%s%u", dr.interface, d->auto_drives++);
    dr.id = name;
    if (split_drive(&dr, pairs, error)) {
        daemon_call_graph(d, co_drive, &dr);
    }
    g_free(dr.throttle_group);
    if (!dr.backend) {
        return OPTION_FAILED;
    }
    g_ptr_array_add(d->drives, dr.backend);
    if (!strcmp(dr.interface, "virtio")) {
        g_ptr_array_add(d->disks, g_steal_pointer(&name));
    }
    return OPTION_OK;
}

void co_drives_close(struct daemon *d)
{
    for (guint i = d->drives->len; i-- > 0;) {
        struct backend *b = d->drives->pdata[i];
        if (b->graph == graph_current()) {
            g_ptr_array_remove_index(d->drives, i);
            co_backend_unref(b);
        }
    }
}

/* ---- -device ---- */

struct device_call {
    const GPtrArray *pairs;
    struct loop *iothread;
    bool ok;
    GError **error;
};

static void co_device(void *opaque)
{
    struct device_call *c = opaque;
    c->ok = co_hw_device_add(c->pairs, c->iothread, c->error);
}

static bool add_device(struct daemon *d, const GPtrArray *pairs, GError **error)
{
    struct device_call c = {
        .pairs = pairs,
        .iothread = object_loop(pairs_find(pairs, "iothread")),
        .error = error,
    };
    daemon_call_graph(d, co_device, &c);
    return c.ok;
}

enum option_result apply_device(struct daemon *d, const char *value,
                                GError **error)
{
    g_autoptr(GPtrArray) pairs = keyval_split(value, "driver", error);
    if (!pairs) {
        return OPTION_FAILED;
    }
    const char *driver = pairs_find(pairs, "driver");
    bool all = driver && !strcmp(driver, "help");
    if (all || pairs_find(pairs, "help") || pairs_find(pairs, "?")) {
        g_autofree char *text = hw_device_help(all ? NULL : driver, error);
        if (!text) {
            return OPTION_FAILED;
        }
        g_print("%s", text);
        return OPTION_ANSWERED;
    }
    return add_device(d, pairs, error) ? OPTION_OK : OPTION_FAILED;
}

bool daemon_add_disks(struct daemon *d, GError **error)
{
    for (guint i = 0; i < d->disks->len; i++) {
        g_autofree char *text = g_strdup_printf(
            "virtio-blk-pci,drive=%s", (const char *)d->disks->pdata[i]);
        g_autoptr(GPtrArray) pairs = keyval_split(text, "driver", error);
        if (!pairs || !add_device(d, pairs, error)) {
            return false;
        }
    }
    return true;
}
