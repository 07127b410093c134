/*
 * --chardev, and the options that put a monitor on one.
 *
 * A chardev is only remembered; it is opened when a monitor takes it, and then
 * an error is that of the --chardev option.
 */
#include <stdlib.h>
#include <string.h>

#include "qmp/monitor.h"
#include "tools/common/tool.h"
#include "tools/varved/daemon.h"
#include "util/error.h"
#include "util/keyval.h"

struct chardev {
    struct monitor_channel channel;
    GPtrArray *pairs; /* hold the channel's strings */
    char *text;       /* of the option, for messages */
    bool in_use;
};

void chardev_free(gpointer p)
{
    struct chardev *c = p;
    g_ptr_array_unref(c->pairs);
    g_free((char *)c->channel.path);
    g_free(c->text);
    g_free(c);
}

/* ---- reading pairs ---- */

bool check_id(const char *id, GError **error)
{
    bool ok = g_ascii_isalpha(*id);

    for (const char *c = id; *c; c++) {
        ok = ok && (g_ascii_isalnum(*c) || strchr("-._", *c));
    }
    return ok || error_set(error, "Parameter 'id' expects an identifier\n"
                                  "Identifiers consist of letters, digits, "
                                  "'-', '.', '_', starting with a letter.");
}

const char *pairs_find(const GPtrArray *pairs, const char *key)
{
    for (guint i = pairs->len; i-- > 0;) {
        const struct keyval *pair = pairs->pdata[i];
        if (!strcmp(pair->key, key)) {
            return pair->value;
        }
    }
    return NULL;
}

bool pairs_bool(const GPtrArray *pairs, const char *key, bool absent,
                bool *value, GError **error)
{
    static const char *const on[] = {"on", "yes", "true", "y", NULL};
    static const char *const off[] = {"off", "no", "false", "n", NULL};
    const char *text = pairs_find(pairs, key);

    *value = absent;
    if (text && g_strv_contains(on, text)) {
        *value = true;
    } else if (text && g_strv_contains(off, text)) {
        *value = false;
    } else if (text) {
        return error_set(error, "Parameter '%s' expects 'on' or 'off'", key);
    }
    return true;
}

/* Every key must be in `known`; what is in `off_only` may only be off. */
static bool check_keys(const GPtrArray *pairs, const char *const *known,
                       const char *const *off_only, GError **error)
{
    for (guint i = 0; i < pairs->len; i++) {
        const char *key = ((struct keyval *)pairs->pdata[i])->key;
        bool value;
        if (g_strv_contains(known, key)) {
            continue;
        }
        if (!g_strv_contains(off_only, key)) {
            return error_set(error, "Invalid parameter '%s'", key);
        }
        if (!pairs_bool(pairs, key, false, &value, error)) {
            return false;
        }
        if (value) {
            return error_set(error, "Parameter '%s' is not supported", key);
        }
    }
    return true;
}

/* "nowait" is an old way to say wait=off. */
static void modernise(GPtrArray *pairs)
{
    static const char *const old[] = {"nowait", "noserver"};

    for (guint i = 0; i < pairs->len; i++) {
        struct keyval *pair = pairs->pdata[i];
        for (size_t k = 0; k < G_N_ELEMENTS(old); k++) {
            if (!strcmp(pair->key, old[k]) && !strcmp(pair->value, "on")) {
                g_free(pair->key);
                g_free(pair->value);
                pair->key = g_strdup(old[k] + 2);
                pair->value = g_strdup("off");
            }
        }
    }
}

/* ---- sockets ---- */

/* A daemon leaves its directory; the socket stays where it was. */
static char *socket_path(const struct daemon *d, const char *path,
                         bool abstract)
{
    if (d->daemonize && !abstract) {
        char *full = g_canonicalize_filename(path, NULL);
        if (strlen(full) < 108) { /* sun_path */
            return full;
        }
        g_free(full);
    }
    return g_strdup(path);
}

static bool parse_socket(struct daemon *d, struct chardev *c, GError **error)
{
    static const char *const known[] = {
        "kind",  "id",   "path",      "abstract", "tight",
        "host",  "port", "server",    "wait",     "nodelay",
        "delay", "ipv4", "reconnect", "ipv6",     NULL};
    static const char *const off_only[] = {"telnet", "tn3270", "websocket",
                                           "mux", NULL};
    struct monitor_channel *ch = &c->channel;
    const char *path = pairs_find(c->pairs, "path");
    const char *reconnect = pairs_find(c->pairs, "reconnect");
    bool ipv4, ipv6, delay, tight;

    modernise(c->pairs);
    ch->host = pairs_find(c->pairs, "host");
    ch->port = pairs_find(c->pairs, "port");
    if (!check_keys(c->pairs, known, off_only, error)) {
        return false;
    }
    if (path ? ch->host != NULL : !ch->host) {
        return error_set(error,
                         "None or one of 'path' or 'host' option required.");
    }
    if (!path && !ch->port) {
        return error_set(error, "chardev: socket: no port given");
    }
    if (!pairs_bool(c->pairs, "server", false, &ch->server, error) ||
        !pairs_bool(c->pairs, "wait", true, &ch->wait, error) ||
        !pairs_bool(c->pairs, "abstract", false, &ch->abstract, error) ||
        !pairs_bool(c->pairs, "tight", true, &tight, error) ||
        !pairs_bool(c->pairs, "delay", true, &delay, error) ||
        !pairs_bool(c->pairs, "nodelay", !delay, &ch->nodelay, error) ||
        !pairs_bool(c->pairs, "ipv4", false, &ipv4, error) ||
        !pairs_bool(c->pairs, "ipv6", false, &ipv6, error)) {
        return false;
    }
    if (reconnect) {
        guint64 seconds;
        if (!g_ascii_string_to_unsigned(reconnect, 10, 0, INT32_MAX, &seconds,
                                        NULL)) {
            return error_set(error, "Parameter 'reconnect' expects a number");
        }
        ch->reconnect_s = (int64_t)seconds;
    }
    ch->kind = path ? MONITOR_CHANNEL_UNIX : MONITOR_CHANNEL_TCP;
    ch->path = path ? socket_path(d, path, ch->abstract) : NULL;
    ch->ipv4_only = ipv4 && !ipv6;
    ch->ipv6_only = ipv6 && !ipv4;
    ch->wait = ch->wait && ch->server;
    return true;
}

static bool parse_stdio(struct daemon *d, struct chardev *c, GError **error)
{
    static const char *const known[] = {"kind", "id", "signal", NULL};
    static const char *const off_only[] = {"mux", NULL};

    if (d->stdio_taken) {
        return error_set(error,
                         "cannot use stdio by multiple character devices");
    }
    d->stdio_taken = true;
    c->channel.kind = MONITOR_CHANNEL_STDIO;
    return check_keys(c->pairs, known, off_only, error);
}

/* From pairs with "kind" first, which it takes over. */
static struct chardev *chardev_new(struct daemon *d, GPtrArray *pairs,
                                   GError **error)
{
    struct chardev *c = g_new0(struct chardev, 1);
    const char *kind = pairs_find(pairs, "kind");
    bool ok;

    c->pairs = pairs;
    if (!g_strcmp0(kind, "socket")) {
        ok = parse_socket(d, c, error);
    } else if (!g_strcmp0(kind, "stdio")) {
        ok = parse_stdio(d, c, error);
    } else {
        ok = error_set(error, "'%s' is not a valid char driver name",
                       kind ? kind : "");
    }
    if (!ok) {
        g_clear_pointer(&c, chardev_free);
    }
    return c;
}

enum option_result apply_chardev(struct daemon *d, const char *value,
                                 GError **error)
{
    GPtrArray *pairs = keyval_split(value, "kind", error);
    if (!pairs) {
        return OPTION_FAILED;
    }
    const char *id = pairs_find(pairs, "id");
    if (!strcmp(value, "help")) {
        g_print("Available chardev backend types:\n  socket\n  stdio\n");
        g_ptr_array_unref(pairs);
        return OPTION_ANSWERED;
    }
    bool ok =
        id ? check_id(id, error) : error_set(error, "chardev: no id specified");
    if (ok && g_hash_table_contains(d->chardevs, id)) {
        ok = error_set(error, "Duplicate ID '%s' for chardev", id);
    }
    if (!ok) {
        g_ptr_array_unref(pairs);
        return OPTION_FAILED;
    }
    struct chardev *c = chardev_new(d, pairs, error);
    if (!c) {
        return OPTION_FAILED;
    }
    c->text = g_strdup_printf("--chardev %s", value);
    g_hash_table_insert(d->chardevs, g_strdup(id), c);
    return OPTION_OK;
}

/* ---- monitors ---- */

static bool open_monitor(struct daemon *d, struct chardev *c, const char *id,
                         bool pretty, GError **error)
{
    g_autofree char *made = NULL;

    if (!id) {
        id = made = g_strdup_printf("compat_monitor%u", d->monitors++);
    }
    return monitor_new(id, &c->channel, pretty, error) != NULL;
}

static enum option_result monitor_on(struct daemon *d, const char *value,
                                     GError **error)
{
    static const char *const known[] = {"chardev", "id", "mode", "pretty",
                                        NULL};
    static const char *const none[] = {NULL};
    g_autoptr(GPtrArray) pairs = keyval_split(value, "chardev", error);
    bool pretty;

    if (!pairs || !check_keys(pairs, known, none, error) ||
        !pairs_bool(pairs, "pretty", false, &pretty, error)) {
        return OPTION_FAILED;
    }
    const char *name = pairs_find(pairs, "chardev");
    const char *mode = pairs_find(pairs, "mode");
    const char *id = pairs_find(pairs, "id");
    if (!name) {
        return error_set(error, "Parameter 'chardev' is missing");
    }
    if (mode && strcmp(mode, "control") && strcmp(mode, "readline")) {
        return error_set(error, "Parameter 'mode' does not accept value '%s'",
                         mode);
    }
    struct chardev *c = g_hash_table_lookup(d->chardevs, name);
    if (!c) {
        return error_set(error, "chardev \"%s\" not found", name);
    }
    if (mode && strcmp(mode, "control")) {
        return error_set(error, "Only mode=control is supported");
    }
    if (c->in_use) {
        return error_set(error, "Device '%s' is in use", name);
    }
    if (id && !check_id(id, error)) {
        return OPTION_FAILED;
    }
    if (!open_monitor(d, c, id, pretty, error)) {
        d->blame = c->text;
        return OPTION_FAILED;
    }
    c->in_use = true;
    return OPTION_OK;
}

enum option_result apply_monitor(struct daemon *d, const char *value,
                                 GError **error)
{
    /* The emulator's option of the same name: no monitor for people. */
    if (!strcmp(value, "none") || !strcmp(value, "null")) {
        return OPTION_OK;
    }
    return monitor_on(d, value, error);
}

enum option_result apply_mon(struct daemon *d, const char *value,
                             GError **error)
{
    return monitor_on(d, value, error);
}

/* ---- -qmp: a channel in one word ---- */

static void add_pair(GPtrArray *pairs, const char *key, char *value)
{
    struct keyval *pair = g_new(struct keyval, 1);
    *pair = (struct keyval){.key = g_strdup(key), .value = value};
    g_ptr_array_add(pairs, pair);
}

/* Replaces the first pair "kind=unix:PATH" by what it means. */
static bool expand_kind(GPtrArray *pairs, GError **error)
{
    struct keyval *first = pairs->pdata[0];
    g_autofree char *word = g_steal_pointer(&first->value);

    first->value = g_strdup("socket");
    if (g_str_has_prefix(word, "unix:")) {
        add_pair(pairs, "path", g_strdup(word + strlen("unix:")));
        return true;
    }
    if (!strcmp(word, "stdio")) {
        g_free(first->value);
        first->value = g_strdup("stdio");
        return true;
    }
    if (!g_str_has_prefix(word, "tcp:")) {
        tool_error("-qmp %s: '%s' is not a valid char driver", word, word);
        return error_set(error, "parse error: %s", word);
    }
    const char *host = word + strlen("tcp:");
    const char *colon = strrchr(host, ':');
    if (!colon || !colon[1]) {
        return error_set(error, "parse error: %s", word);
    }
    bool bracket = *host == '[' && colon > host && colon[-1] == ']';
    add_pair(pairs, "port", g_strdup(colon + 1));
    add_pair(pairs, "host",
             g_strndup(host + bracket, (gsize)(colon - host) - 2 * bracket));
    return true;
}

static enum option_result qmp(struct daemon *d, const char *value, bool pretty,
                              GError **error)
{
    if (!strcmp(value, "none") || !strcmp(value, "null")) {
        return OPTION_OK;
    }
    if (g_str_has_prefix(value, "chardev:")) {
        g_autofree char *text =
            g_strdup_printf("%s,mode=control,pretty=%s",
                            value + strlen("chardev:"), pretty ? "on" : "off");
        return monitor_on(d, text, error);
    }
    GPtrArray *pairs = keyval_split(value, "kind", error);
    if (!pairs || !pairs->len || !expand_kind(pairs, error)) {
        if (pairs) {
            g_ptr_array_unref(pairs);
        }
        return !error || *error ? OPTION_FAILED
                                : error_set(error, "parse error: %s", value);
    }
    struct chardev *c = chardev_new(d, pairs, error);
    if (!c) {
        return OPTION_FAILED;
    }
    bool ok = open_monitor(d, c, NULL, pretty, error);
    chardev_free(c);
    return ok ? OPTION_OK : OPTION_FAILED;
}

enum option_result apply_qmp(struct daemon *d, const char *value,
                             GError **error)
{
    return qmp(d, value, false, error);
}

enum option_result apply_qmp_pretty(struct daemon *d, const char *value,
                                    GError **error)
{
    return qmp(d, value, true, error);
}
