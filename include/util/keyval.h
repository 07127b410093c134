/*
 * "key=value,key=value" as people type it on a command line.
 *
 * A comma inside a value is written ",,". A first element without '=' may
 * stand for an implied key; a later one "foo" means foo=on (and "nofoo"
 * has no meaning of its own). Keys may be dotted ("file.filename"); this file
 * only splits, qapi/options.h makes a tree of them and decodes it by the
 * schema.
 */
#ifndef VARVE_UTIL_KEYVAL_H
#define VARVE_UTIL_KEYVAL_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

struct keyval {
    char *key;
    char *value;
};

/* An array of struct keyval in the order given; free with g_ptr_array_unref().
 * implied_key may be NULL. NULL and *error for a malformed string. */
GPtrArray *keyval_split(const char *text, const char *implied_key,
                        GError **error);
/* "64k", "1.5G", "0x200", "512" as bytes, with the suffixes B K M G T P E
 * (powers of 1024, either case; in hexadecimal b and e are digits). -EINVAL if
 * malformed or negative, -ERANGE if too large, with *bytes as it was. */
int keyval_size(const char *text, uint64_t *bytes);
/* The same for the parameter `name`; the error names it and what it expects. */
bool keyval_parse_size(const char *name, const char *text, uint64_t *bytes,
                       GError **error);
/* text as a value in such a list: commas doubled. Caller frees. */
char *keyval_quote(const char *text);

#endif
