/*
 * Resolves the address of a channel and listens or connects: the first of its
 * addresses that works is taken.
 */
#include "channel_socket.h"

#include <errno.h>
#include <gio/gunixsocketaddress.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/error.h"

static GSocketAddress *unix_address(const struct monitor_channel *how,
                                    GError **error)
{
    size_t max = g_unix_socket_address_abstract_names_supported() ? 107 : 100;

    if (strlen(how->path) > max) {
        error_set(error,
                  "UNIX socket path '%s' is too long: must be less than "
                  "%zu bytes",
                  how->path, max + 1);
        return NULL;
    }
    return g_unix_socket_address_new_with_type(
        how->path, -1,
        how->abstract ? G_UNIX_SOCKET_ADDRESS_ABSTRACT
                      : G_UNIX_SOCKET_ADDRESS_PATH);
}

static bool tcp_port(const char *text, guint16 *port, GError **error)
{
    guint64 number;

    if (text && g_ascii_string_to_unsigned(text, 10, 0, 65535, &number, NULL)) {
        *port = (guint16)number;
        return true;
    }
    return error_set(error, "port '%s' is no number from 0 to 65535",
                     text ? text : "");
}

static GSocketConnectable *connectable(const struct monitor_channel *how,
                                       GError **error)
{
    guint16 port = 0;

    if (how->kind == MONITOR_CHANNEL_UNIX) {
        GSocketAddress *address = unix_address(how, error);
        return address ? G_SOCKET_CONNECTABLE(address) : NULL;
    }
    if (!tcp_port(how->port, &port, error)) {
        return NULL;
    }
    if (how->host && *how->host) {
        return g_network_address_new(how->host, port);
    }
    if (!how->server) {
        return g_network_address_new_loopback(port);
    }
    g_autoptr(GInetAddress) any = g_inet_address_new_any(
        how->ipv4_only ? G_SOCKET_FAMILY_IPV4 : G_SOCKET_FAMILY_IPV6);
    return G_SOCKET_CONNECTABLE(g_inet_socket_address_new(any, port));
}

/* A socket file that nobody needs any more, such as of a program that died. */
static void remove_stale(const struct monitor_channel *how)
{
    struct stat st;

    if (how->kind == MONITOR_CHANNEL_UNIX && !how->abstract &&
        !lstat(how->path, &st) && S_ISSOCK(st.st_mode)) {
        unlink(how->path);
    }
}

static GSocket *open_one(const struct monitor_channel *how,
                         GSocketAddress *address, GError **error)
{
    g_autoptr(GSocket) socket =
        g_socket_new(g_socket_address_get_family(address), G_SOCKET_TYPE_STREAM,
                     G_SOCKET_PROTOCOL_DEFAULT, error);
    if (!socket) {
        return NULL;
    }
    if (!how->server) {
        if (!g_socket_connect(socket, address, NULL, error)) {
            return NULL;
        }
    } else {
        if (how->ipv6_only) {
            g_socket_set_option(socket, IPPROTO_IPV6, IPV6_V6ONLY, 1, NULL);
        }
        remove_stale(how);
        if (!g_socket_bind(socket, address, TRUE, error) ||
            !g_socket_listen(socket, error)) {
            return NULL;
        }
    }
    g_socket_set_blocking(socket, FALSE);
    return g_steal_pointer(&socket);
}

static bool family_wanted(const struct monitor_channel *how,
                          GSocketAddress *address)
{
    GSocketFamily family = g_socket_address_get_family(address);

    return !(how->ipv4_only && family == G_SOCKET_FAMILY_IPV6) &&
           !(how->ipv6_only && family == G_SOCKET_FAMILY_IPV4);
}

GSocket *channel_socket_open(const struct monitor_channel *how, GError **error)
{
    g_autoptr(GSocketConnectable) to = connectable(how, error);
    if (!to) {
        return NULL;
    }
    g_autoptr(GSocketAddressEnumerator) addresses =
        g_socket_connectable_enumerate(to);
    g_autoptr(GError) last = NULL;
    for (;;) {
        g_autoptr(GError) why = NULL;
        g_autoptr(GSocketAddress) address =
            g_socket_address_enumerator_next(addresses, NULL, &why);
        GSocket *socket = NULL;
        if (address && !family_wanted(how, address)) {
            continue;
        }
        if (address) {
            socket = open_one(how, address, &why);
        }
        if (socket) {
            return socket;
        }
        if (why) {
            g_clear_error(&last);
            last = g_steal_pointer(&why);
        }
        if (!address) {
            break;
        }
    }
    const char *name =
        how->kind == MONITOR_CHANNEL_UNIX ? how->path : how->host;
    /* GIO's messages begin with what is said here better. */
    const char *reason = last ? g_strrstr(last->message, ": ") : NULL;
    reason = reason ? reason + 2
             : last ? last->message
                    : "no address of the wanted kind";
    if (how->server && how->kind == MONITOR_CHANNEL_UNIX) {
        error_set(error, "Failed to bind socket to %s: %s", name, reason);
    } else {
        error_set(error, "Failed to %s '%s': %s",
                  how->server ? "listen on" : "connect to", name ? name : "",
                  reason);
    }
    return NULL;
}
