/*
 * "key=value,key=value" as people type it on a command line.
 *
 * A comma inside a value is written ",,". A first element without '=' may
 * stand for an implied key; a later one "foo" means foo=on ; that
 * "nofoo" means foo=off is for keyval_negate(). Keys may be dotted
 * ("file.filename"); this file only splits, qapi/options.h makes a tree of them
 * and decodes it by the schema.
 */
#ifndef VARVE_UTIL_KEYVAL_H
#define VARVE_UTIL_KEYVAL_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

struct keyval {
    char *key;
    char *value;
    bool bare; /* a word alone, which means "on" */
};

/* An array of struct keyval in the order given; free with g_ptr_array_unref().
 * implied_key may be NULL. NULL and *error for a malformed string. */
GPtrArray *keyval_split(const char *text, const char *implied_key,
                        GError **error);
/* Makes foo=off of a word "nofoo", as the older ones of such lists have it. */
void keyval_negate(struct keyval *kv);
/* "64k", "1.5G", "0x200", "512" as bytes, with the suffixes B K M G T P E
 * (powers of 1024, either case; in hexadecimal b and e are digits). -EINVAL if
 * malformed or negative, -ERANGE if too large, with *bytes as it was. */
int keyval_size(const char *text, uint64_t *bytes);
/* The same for the parameter `name`; the error names it and what it expects. */
bool keyval_parse_size(const char *name, const char *text, uint64_t *bytes,
                       GError **error);
/* The value of an option of an image as a number, or "on" or "off"; an error
 * names the key, in the words of the image tools. */
bool keyval_take_number(const struct keyval *kv, uint64_t *number,
                        GError **error);
bool keyval_take_bool(const struct keyval *kv, bool *on, GError **error);
/* "on", "yes", "true", "y", and their opposites; false: none of them. */
bool keyval_bool(const char *text, bool *on);
/* text as a value in such a list: commas doubled. Caller frees. */
char *keyval_quote(const char *text);

#endif
