/*
 * -device: the table of a virtio-blk device's properties, and the making of a
 * device from text.
 *
 * Names, defaults and spelling are those of QEMU's virtio-blk-pci. What only
 * places a device on a bus or in a machine is accepted and does nothing. A
 * property is one row. A device is made on the loop of its drive.
 */
#include "hw/virtio_blk.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "aio/loop.h"
#include "aio/mailbox.h"
#include "block/backend.h"
#include "block/place.h"
#include "hw/virtio-blk/device.h"
#include "util/error.h"
#include "util/keyval.h"

/* What the text of a -device option says. */
struct device_options {
    const char *driver, *drive;
    struct virtio_blk_props props;
    const char *rerror, *werror, *write_cache, *iothread;
};

enum prop_type {
    PROP_STR,
    PROP_ON_OFF,   /* on sets the member */
    PROP_OFF_ON,   /* off sets the member */
    PROP_ON_ERROR, /* a value of BlockdevOnError */
    PROP_AUTO,     /* on, off or auto */
    PROP_NUMBER,
    PROP_SIZE, /* bytes, with a suffix */
    PROP_IGNORED,
};

#define AT(member) offsetof(struct device_options, member)

static const struct prop {
    const char *name;
    enum prop_type type;
    size_t at;
    const char *help;
} props[] = {
    {"acpi-index", PROP_IGNORED, 0, NULL},
    {"addr", PROP_IGNORED, 0, NULL},
    {"ats", PROP_IGNORED, 0, NULL},
    {"bootindex", PROP_IGNORED, 0, NULL},
    {"bus", PROP_IGNORED, 0, NULL},
    {"class", PROP_IGNORED, 0, NULL},
    {"config-wce", PROP_OFF_ON, AT(props.no_config_wce),
     "<bool> - the guest may switch the write cache (default: on)"},
    {"disable-legacy", PROP_IGNORED, 0, NULL},
    {"disable-modern", PROP_IGNORED, 0, NULL},
    {"discard", PROP_OFF_ON, AT(props.no_discard),
     "<bool> - offer discard (default: on)"},
    {"drive", PROP_STR, AT(drive),
     "<str> - name of a drive, or node-name of a node"},
    {"event_idx", PROP_OFF_ON, AT(props.no_event_idx),
     "<bool> - offer event indices (default: on)"},
    {"id", PROP_STR, AT(props.id), "<str> - name of the device"},
    {"indirect_desc", PROP_OFF_ON, AT(props.no_indirect),
     "<bool> - offer indirect descriptors (default: on)"},
    {"ioeventfd", PROP_IGNORED, 0, NULL},
    {"iothread", PROP_STR, AT(iothread),
     "<str> - I/O thread that serves it (default: the drive's)"},
    {"logical_block_size", PROP_SIZE, AT(props.logical_bytes),
     "<size> - bytes of a block (default: 512)"},
    {"max-discard-sectors", PROP_NUMBER, AT(props.max_discard_sectors),
     "<uint32> - longest discard (default: 4194303)"},
    {"max-write-zeroes-sectors", PROP_NUMBER,
     AT(props.max_write_zeroes_sectors),
     "<uint32> - longest write-zeroes (default: 4194303)"},
    {"min_io_size", PROP_SIZE, AT(props.min_io_bytes),
     "<size> - preferred smallest request in bytes (default: 0)"},
    {"multifunction", PROP_IGNORED, 0, NULL},
    {"num-queues", PROP_NUMBER, AT(props.num_queues),
     "<uint16> - number of virtqueues (default: 1)"},
    {"opt_io_size", PROP_SIZE, AT(props.opt_io_bytes),
     "<size> - preferred request in bytes (default: 0)"},
    {"packed", PROP_ON_OFF, AT(props.packed),
     "<bool> - offer packed virtqueues (default: off)"},
    {"physical_block_size", PROP_SIZE, AT(props.physical_bytes),
     "<size> - bytes of a physical block (default: 512)"},
    {"queue-size", PROP_NUMBER, AT(props.queue_size),
     "<uint16> - entries of a virtqueue (default: 256)"},
    {"queue_reset", PROP_OFF_ON, AT(props.no_ring_reset),
     "<bool> - the guest may reset single virtqueues (default: on)"},
    {"request-merging", PROP_IGNORED, 0, NULL},
    {"rerror", PROP_ON_ERROR, AT(rerror),
     "<BlockdevOnError> - what a failed read does (default: the drive's)"},
    {"romfile", PROP_IGNORED, 0, NULL},
    {"scsi", PROP_IGNORED, 0, NULL},
    {"seg-max-adjust", PROP_IGNORED, 0, NULL},
    {"serial", PROP_STR, AT(props.serial),
     "<str> - serial number, up to 20 bytes"},
    {"share-rw", PROP_ON_OFF, AT(props.share_rw),
     "<bool> - others may write to the drive too (default: off)"},
    {"size-max", PROP_SIZE, AT(props.size_max),
     "<size> - largest segment that the guest should send (default: 2G less "
     "a block)"},
    {"use-intx", PROP_IGNORED, 0, NULL},
    {"vectors", PROP_IGNORED, 0, NULL},
    {"werror", PROP_ON_ERROR, AT(werror),
     "<BlockdevOnError> - what a failed write does (default: the drive's)"},
    {"write-cache", PROP_AUTO, AT(write_cache),
     "<OnOffAuto> - off makes every write stable at its end (default: auto)"},
    {"write-zeroes", PROP_OFF_ON, AT(props.no_write_zeroes),
     "<bool> - offer write-zeroes (default: on)"},
};

static const char *const drivers[] = {
    "virtio-blk",
    "virtio-blk-device",
    "virtio-blk-pci",
    "virtio-blk-pci-non-transitional",
};

static bool driver_known(const char *name, GError **error)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(drivers); i++) {
        if (strcmp(drivers[i], name) == 0) {
            return true;
        }
    }
    return error_set(error, "'%s' is not a valid device model name", name);
}

static bool parse_bool(const char *text, bool *value)
{
    static const char *const yes[] = {"on", "yes", "true", "y"};
    static const char *const no[] = {"off", "no", "false", "n"};

    for (unsigned i = 0; i < G_N_ELEMENTS(yes); i++) {
        if (strcmp(text, yes[i]) == 0 || strcmp(text, no[i]) == 0) {
            *value = strcmp(text, yes[i]) == 0;
            return true;
        }
    }
    return false;
}

static bool parse_number(enum prop_type type, const char *text, uint32_t *value)
{
    uint64_t n;

    if (type == PROP_SIZE) {
        if (keyval_size(text, &n) < 0) {
            return false;
        }
    } else {
        bool hex = g_str_has_prefix(text, "0x");

        if (!g_ascii_string_to_unsigned(text + 2 * hex, hex ? 16 : 10, 0,
                                        UINT32_MAX, &n, NULL)) {
            return false;
        }
    }
    *value = n;
    return n <= UINT32_MAX;
}

static const char *const expected[] = {
    [PROP_STR] = "a string",
    [PROP_ON_OFF] = "'on' or 'off'",
    [PROP_OFF_ON] = "'on' or 'off'",
    [PROP_ON_ERROR] = "'report', 'ignore', 'enospc', 'stop' or 'auto'",
    [PROP_AUTO] = "'on', 'off' or 'auto'",
    [PROP_NUMBER] = "a number",
    [PROP_SIZE] = "a size",
};

static bool parse_value(const struct prop *p, const char *text, void *at)
{
    enum blockdev_on_error on_error;
    bool value;

    switch (p->type) {
    case PROP_ON_OFF:
    case PROP_OFF_ON:
        if (!parse_bool(text, &value)) {
            return false;
        }
        *(bool *)at = value == (p->type == PROP_ON_OFF);
        return true;
    case PROP_NUMBER:
    case PROP_SIZE:
        return parse_number(p->type, text, at);
    case PROP_ON_ERROR:
        *(const char **)at = text;
        return blockdev_on_error_parse(text, &on_error);
    case PROP_AUTO:
        *(const char **)at = text;
        return strcmp(text, "auto") == 0 || parse_bool(text, &value);
    case PROP_STR:
        *(const char **)at = text;
        return true;
    case PROP_IGNORED:
        break;
    }
    return true;
}

static int by_name(const void *key, const void *row)
{
    return strcmp(key, ((const struct prop *)row)->name);
}

/* Strings in *o are those of options. */
static bool parse(const GPtrArray *options, struct device_options *o,
                  GError **error)
{
    for (unsigned i = 0; i < options->len; i++) {
        const struct keyval *kv = options->pdata[i];

        if (strcmp(kv->key, "driver") == 0) {
            o->driver = kv->value;
            continue;
        }
        const struct prop *p = bsearch(kv->key, props, G_N_ELEMENTS(props),
                                       sizeof(*props), by_name);
        if (!p) {
            return error_set(error, "Property '%s.%s' not found",
                             o->driver ? o->driver : "device", kv->key);
        }
        if (!parse_value(p, kv->value, (char *)o + p->at)) {
            return error_set(error, "Parameter '%s' expects %s", kv->key,
                             expected[p->type]);
        }
    }
    if (!o->driver) {
        return error_set(error, "Parameter 'driver' is missing");
    }
    if (!driver_known(o->driver, error)) {
        return false;
    }
    return o->drive || error_set(error, "drive property not set");
}

/* A reference to the backend that drive names, or to a new one on the node of
 * that name. */
static struct backend *co_backend_of(const struct device_options *o,
                                     GError **error)
{
    struct backend *b = backend_find(o->drive, NULL);
    struct node *node = b ? NULL : node_find(o->drive, NULL);

    if (b) {
        return backend_ref(b);
    }
    if (!node) {
        error_set(error, "Property '%s.drive' can't find value '%s'", o->driver,
                  o->drive);
        return NULL;
    }
    return co_backend_new(
        NULL, node, PERM_CONSISTENT_READ | (node->read_only ? 0 : PERM_WRITE),
        PERM_ALL & ~(o->props.share_rw ? 0 : PERM_WRITE), error);
}

struct device_add {
    struct device_options options;
    struct loop *iothread; /* NULL: where the drive is */
    bool ok;
    GError **error;
};

static bool co_add(struct device_add *a, GError **error)
{
    struct device_options o = a->options;
    enum blockdev_on_error on_error;
    bool cache;

    if (o.props.id && virtio_blk_find(o.props.id, NULL)) {
        return error_set(error, "Duplicate device ID '%s'", o.props.id);
    }
    struct backend *b = co_backend_of(&o, error);

    if (!b) {
        return false;
    }
    /* auto: what the drive's cache option said. */
    o.props.no_write_cache = !b->write_cache;
    if (o.write_cache && parse_bool(o.write_cache, &cache)) {
        o.props.no_write_cache = !cache;
    }
    struct virtio_blk *dev = co_virtio_blk_new(&o.props, b, error);

    if (dev) {
        b->wants_loop = a->iothread;
    }

    if (dev && o.rerror && blockdev_on_error_parse(o.rerror, &on_error) &&
        on_error != BLOCKDEV_ON_ERROR_AUTO) {
        b->on_read_error = on_error;
    }
    if (dev && o.werror && blockdev_on_error_parse(o.werror, &on_error) &&
        on_error != BLOCKDEV_ON_ERROR_AUTO) {
        b->on_write_error = on_error;
    }
    co_backend_unref(b); /* the device holds its own reference */
    return dev != NULL;
}

static void co_add_here(void *opaque)
{
    struct device_add *a = opaque;

    a->ok = co_add(a, a->error);
}

bool co_hw_device_add(const GPtrArray *options, struct loop *iothread,
                      GError **error)
{
    struct device_add a = {.iothread = iothread, .error = error};

    if (!parse(options, &a.options, error)) {
        return false;
    }
    if (a.options.iothread && !iothread) {
        return error_set(error, "Device '%s' not found", a.options.iothread);
    }
    const struct place place = {
        .device = a.options.drive,
        .node = a.options.drive,
    };
    struct loop *loop = iothread;

    if (iothread && !co_place_move(&place, iothread, error)) {
        return false;
    }
    if (!iothread && !place_find(&place, &loop)) {
        loop = loop_current(); /* it will not be found there */
    }
    co_call_on(loop, co_add_here, &a);
    return a.ok;
}

char *hw_device_help(const char *driver, GError **error)
{
    GString *s = g_string_new(NULL);

    if (!driver) {
        g_string_append(s, "Storage devices:\n");
        for (unsigned i = 0; i < G_N_ELEMENTS(drivers); i++) {
            g_string_append_printf(s, "name \"%s\", bus %s\n", drivers[i],
                                   strstr(drivers[i], "-pci") ? "PCI"
                                                              : "virtio-bus");
        }
        return g_string_free(s, FALSE);
    }
    if (!driver_known(driver, error)) {
        g_string_free(s, TRUE);
        return NULL;
    }
    g_string_append_printf(s, "%s options:\n", driver);
    for (unsigned i = 0; i < G_N_ELEMENTS(props); i++) {
        g_string_append_printf(s, "  %s=%s\n", props[i].name,
                               props[i].help ? props[i].help
                                             : "<any> - has no effect here");
    }
    return g_string_free(s, FALSE);
}

void co_hw_device_del_all(void)
{
    struct virtio_blk *dev;

    while ((dev = virtio_blk_any())) {
        co_virtio_blk_free(dev);
    }
}
