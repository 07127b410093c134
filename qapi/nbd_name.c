/*
 * Names of NBD exports:
 *
 *   nbd://HOST[:PORT][/EXPORT]          as the NBD URI specification has them,
 *   nbd+tcp://HOST[:PORT][/EXPORT]      but for TLS, which options ask for
 *   nbd+unix:///[EXPORT]?socket=PATH
 *   nbd:HOST:PORT[:exportname=EXPORT]   older
 *   nbd:unix:PATH[:exportname=EXPORT]
 *
 * Options as pairs have an older form as well: "host", "port" and "path" beside
 * "export". All become the one struct of the schema. Any loop; opens nothing.
 */
#include "qapi/nbd_name.h"

#include <glib.h>
#include <json-c/json.h>
#include <string.h>

#include "util/error.h"

#define DEFAULT_PORT "10809"
#define EXPORT_MARK  ":exportname="

static struct blockdev_options *new_options(const char *export)
{
    struct blockdev_options *o = g_new0(struct blockdev_options, 1);

    o->driver = BLOCKDEV_DRIVER_NBD;
    o->u.nbd.server = g_new0(struct socket_address, 1);
    o->u.nbd.export = g_strdup(export);
    return o;
}

static struct blockdev_options *unix_options(const char *path,
                                             const char *export)
{
    struct blockdev_options *o = new_options(export);

    o->u.nbd.server->type = SOCKET_ADDRESS_TYPE_UNIX;
    o->u.nbd.server->u.unix_.path = g_strdup(path);
    return o;
}

/* Takes host and port over. */
static struct blockdev_options *inet_options(char *host, char *port,
                                             const char *export)
{
    struct blockdev_options *o = new_options(export);

    o->u.nbd.server->type = SOCKET_ADDRESS_TYPE_INET;
    o->u.nbd.server->u.inet.host = host;
    o->u.nbd.server->u.inet.port = port;
    return o;
}

/* ---- URIs ---- */

static const struct {
    const char *scheme;
    bool is_unix;
} schemes[] = {{"nbd", false}, {"nbd+tcp", false}, {"nbd+unix", true}};

static int find_scheme(const char *filename)
{
    for (size_t i = 0; i < G_N_ELEMENTS(schemes); i++) {
        size_t n = strlen(schemes[i].scheme);

        if (!strncmp(filename, schemes[i].scheme, n) &&
            g_str_has_prefix(filename + n, "://")) {
            return (int)i;
        }
    }
    return -1;
}

/* The one parameter that there may be: where the socket is. */
static char *socket_of(const char *query)
{
    g_autoptr(GHashTable) params =
        query ? g_uri_parse_params(query, -1, "&;", G_URI_PARAMS_NONE, NULL)
              : NULL;

    if (!params || g_hash_table_size(params) != 1) {
        return NULL;
    }
    return g_strdup(g_hash_table_lookup(params, "socket"));
}

static struct blockdev_options *from_uri(const char *uri, bool is_unix,
                                         GError **error)
{
    g_autofree char *host = NULL, *path = NULL, *query = NULL, *socket = NULL;
    int port = -1;
    bool ok = g_uri_split(uri, G_URI_FLAGS_ENCODED_QUERY, NULL, NULL, &host,
                          &port, &path, &query, NULL, NULL);
    bool has_host = host && *host;

    if (ok && is_unix) {
        socket = socket_of(query);
        ok = socket && !has_host && port < 0;
    } else {
        ok = ok && has_host && !query;
    }
    if (!ok) {
        error_set(error, "No valid URL specified");
        return NULL;
    }
    const char *export = path + (*path == '/');

    export = *export ? export : NULL;
    if (is_unix) {
        return unix_options(socket, export);
    }
    return inet_options(g_steal_pointer(&host),
                        port < 0 ? g_strdup(DEFAULT_PORT)
                                 : g_strdup_printf("%d", port),
                        export);
}

/* ---- the older form ---- */

/* "HOST:PORT" or "[HOST]:PORT". */
static struct blockdev_options *from_pair(const char *text, const char *export,
                                          GError **error)
{
    const char *end = *text == '[' ? strchr(text, ']') : NULL;
    const char *colon = strchr(end ? end : text, ':');

    if (!colon || (*text == '[' && (!end || colon != end + 1))) {
        error_set(error, "error parsing %saddress '%s'",
                  *text == '[' ? "IPv6 " : "", text);
        return NULL;
    }
    const char *host = end ? text + 1 : text;

    return inet_options(g_strndup(host, (gsize)((end ? end : colon) - host)),
                        g_strdup(colon + 1), export);
}

static struct blockdev_options *from_old(const char *name, GError **error)
{
    const char *mark = strstr(name, EXPORT_MARK);
    const char *export = mark ? mark + strlen(EXPORT_MARK) : NULL;
    g_autofree char *at =
        mark ? g_strndup(name, (gsize)(mark - name)) : g_strdup(name);

    if (!*at) {
        error_set(error, "NBD server address missing");
        return NULL;
    }
    if (export && !*export) {
        export = NULL;
    }
    return g_str_has_prefix(at, "unix:")
               ? unix_options(at + strlen("unix:"), export)
               : from_pair(at, export, error);
}

bool qapi_is_nbd_name(const char *filename)
{
    return find_scheme(filename) >= 0 || g_str_has_prefix(filename, "nbd:");
}

struct blockdev_options *qapi_nbd_from_name(const char *filename,
                                            GError **error)
{
    int scheme = find_scheme(filename);

    return scheme >= 0 ? from_uri(filename, schemes[scheme].is_unix, error)
                       : from_old(filename + strlen("nbd:"), error);
}

/* ---- options of old ---- */

static struct json_object *take(struct json_object *tree, const char *key)
{
    struct json_object *value = NULL;

    if (json_object_object_get_ex(tree, key, &value)) {
        json_object_get(value);
        json_object_object_del(tree, key);
    }
    return value;
}

static struct json_object *server_of(const char *type, const char *key,
                                     struct json_object *value)
{
    struct json_object *server = json_object_new_object();

    json_object_object_add(server, "type", json_object_new_string(type));
    json_object_object_add(server, key, value);
    return server;
}

bool qapi_nbd_modernise(struct json_object *tree, GError **error)
{
    struct json_object *driver;

    if (!json_object_object_get_ex(tree, "driver", &driver) ||
        g_strcmp0(json_object_get_string(driver), "nbd") != 0) {
        return true;
    }
    bool modern = json_object_object_get_ex(tree, "server", NULL);
    struct json_object *host = take(tree, "host"), *port = take(tree, "port"),
                       *path = take(tree, "path"), *server = NULL;
    bool ok = true;

    if (modern && (host || port || path)) {
        ok = error_set(error, "Cannot use 'server' and path/host/port at the "
                              "same time");
    } else if (path && host) {
        ok = error_set(error, "path and host may not be used at the same time");
    } else if (path) {
        server = server_of("unix", "path", json_object_get(path));
    } else if (host) {
        server = server_of("inet", "host", json_object_get(host));
        json_object_object_add(server, "port",
                               port ? json_object_get(port)
                                    : json_object_new_string(DEFAULT_PORT));
    } else if (!modern) {
        ok = error_set(error, "NBD server address missing");
    }
    if (server) {
        json_object_object_add(tree, "server", server);
    }
    json_object_put(host);
    json_object_put(port);
    json_object_put(path);
    return ok;
}
