/*
 * Cuts a byte stream into JSON texts and refuses what is none.
 */
#ifndef VARVE_QMP_FRAMER_H
#define VARVE_QMP_FRAMER_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One text is at most this long, and has at most so many tokens: what json-c
 * makes of it stays within some 64 MiB. */
#define FRAMER_MAX_BYTES  (16 << 20)
#define FRAMER_MAX_TOKENS (1 << 20)

struct framer {
    GString *text; /* of the value that is being read */
    size_t token;  /* where its current token begins */
    unsigned lex;  /* private from here on */
    unsigned expect;
    unsigned tokens;
    int braces, brackets, depth;
    uint8_t nesting[32]; /* a bit a level: set for an object */
    const char *grammar_error;
    char *word_error;
};

enum framer_result {
    FRAMER_MORE,  /* all bytes taken, no complete text yet */
    FRAMER_TEXT,  /* framer->text is a complete and well-formed text */
    FRAMER_ERROR, /* *error is set; go on feeding behind it */
};

void framer_init(struct framer *f);
void framer_clear(struct framer *f);
/* Forgets what was read of an unfinished text. */
void framer_reset(struct framer *f);
/* Takes bytes up to the end of a text or an error; *used tells how many. After
 * FRAMER_TEXT the text stays until the next call. */
enum framer_result framer_feed(struct framer *f, const char *data,
                               size_t length, size_t *used, GError **error);

#endif
