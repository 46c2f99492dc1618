# SPDX-License-Identifier: Apache-2.0
package Hybrid::Http2Scripts;

# What clients of HTTP/2 send, as bytes: fields are literal, without a table and without Huffman's code.
#
#   my @scripts = Hybrid::Http2Scripts::all($tls);   # { name, tls, bytes, wants }
#
# wants: so many streams are answered or refused, and the connection goes on; 'closed': it ends.
#
# Left out is what mod_http2 answers by chance, with mpm_event as well: a stream, or all of them, that the client gives up
# while it is worked on; fewer bytes than Content-Length says; trailers (a stream that has been answered by then is reset with an error,
# one of a hundred); Upgrade: h2c whose client does not wait for the answer.

use strict;
use warnings;
use Hybrid::Http2;

our $PREFACE = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
my $TABLE_AND_WINDOW = pack 'nNnN', 1, 0, 4, 1 << 20; # no table for fields
my $OPEN = $PREFACE . frame(4, 0, 0, $TABLE_AND_WINDOW) . frame(8, 0, 0, pack 'N', 1 << 20);
my ($END, $WHOLE, $PADDED, $PRIORITY) = (1, 4, 8, 32); # flags

sub frame { return Hybrid::Http2::frame(@_) }
sub text { my ($text) = @_; return length $text < 127 ? chr(length $text) . $text : "\x7f" . chr(length($text) - 127) . $text }
sub fields { my @fields = @_; return join '', map { $_ % 2 ? text($fields[$_]) : "\0" . text($fields[$_]) } 0 .. $#fields }

# [name, how many streams are answered or refused, or 'closed', bytes behind the preface and the settings].
sub all {
    my ($tls) = @_;
    my $block = sub {
        my ($method, $path, @more) = @_;
        return fields(':method', $method, ':scheme', $tls ? 'https' : 'http', ':authority', 'x', ':path', $path, @more);
    };
    my $ask = sub { my ($id, @what) = @_; return frame(1, $END | $WHOLE, $id, $block->(@what)) };
    my $post = sub { my ($id, $length) = @_; return frame(1, $WHOLE, $id, $block->('POST', '/read', 'content-length', $length)) };
    my $get = $ask->(1, 'GET', '/');
    my ($half, $rest) = $block->('GET', '/last') =~ /^(.{20})(.*)/s;
    my @scripts = (
        [ 'GET', 1, $get ], [ 'HEAD', 1, $ask->(1, 'HEAD', '/') ], [ 'not found', 1, $ask->(1, 'GET', '/none') ],
        [ 'a file of 60 kB', 1, $ask->(1, 'GET', '/large') ], [ 'a long field', 1, $ask->(1, 'GET', '/', 'x-long', 'l' x 200) ],
        [ 'two', 2, $get . $ask->(3, 'GET', '/last') ], [ 'ten', 10, join '', map { $ask->(2 * $_ + 1, 'GET', $_ % 2 ? '/' : '/large') } 0 .. 9 ],
        [ 'POST', 1, $post->(1, 5) . frame(0, $END, 1, 'hello') ], [ 'a body of nothing', 1, $post->(1, 0) . frame(0, $END, 1, '') ],
        [ 'in three', 1, $post->(1, 121) . frame(0, 0, 1, 'a' x 100) . frame(0, 0, 1, 'b' x 20) . frame(0, $END, 1, 'c') ],
        [ 'padded', 1, $post->(1, 5) . frame(0, $PADDED | $END, 1, "\5hello\0\0\0\0\0") ],
        [ 'two bodies', 2, $post->(1, 1) . $post->(3, 2) . frame(0, 0, 3, 'a') . frame(0, $END, 1, 'b') . frame(0, $END, 3, 'c') ],
        [ 'POST to a file', 1, frame(1, $WHOLE, 1, $block->('POST', '/last')) . frame(0, $END, 1, 'hello') ],
        [ 'CONTINUATION', 1, frame(1, $END, 1, $half) . frame(9, $WHOLE, 1, $rest) ],
        [ 'priority and padding', 1, frame(1, $END | $WHOLE | $PADDED | $PRIORITY, 1, "\2\0\0\0\0\x10" . $block->('GET', '/') . "\0\0") ],
        [ 'PRIORITY', 1, frame(2, 0, 1, "\0\0\0\0\x10") . $get ], [ 'an unknown frame', 1, frame(0x77, 0, 0, 'what') . $get ],
        [ 'PING', 1, frame(6, 0, 0, '12345678') . $get . frame(6, 0, 0, 'abcdefgh') ],
        [ 'SETTINGS again', 1, $get . frame(4, 0, 0, $TABLE_AND_WINDOW) ], [ 'window of a stream', 1, $get . frame(8, 0, 1, pack 'N', 9) ],
        [ 'GOAWAY', 'closed', frame(7, 0, 0, pack 'NN', 0, 0) ],
        [ 'no path', 1, frame(1, $END | $WHOLE, 1, fields(':method', 'GET', ':scheme', 'http', ':authority', 'x')) ],
        [ 'upper case', 1, $ask->(1, 'GET', '/', 'X-A', 'b') ], [ 'a field of HTTP/1', 1, $ask->(1, 'GET', '/', 'connection', 'close') ],
        [ 'an even stream', 'closed', $ask->(2, 'GET', '/') ], [ 'data of nothing', 'closed', frame(0, $END, 1, 'hello') ],
        [ 'garbage', 'closed', frame(1, $END | $WHOLE, 1, "\xff" x 8) ], [ 'a long frame', 'closed', "\0\x40\1\0\0\0\0\0\1" . 'x' x 100 ],
        [ 'SETTINGS of 5', 'closed', frame(4, 0, 0, 'short') ], [ 'PING of 7', 'closed', frame(6, 0, 0, '1234567') ],
        [ 'no window', 'closed', frame(8, 0, 0, pack 'N', 0) ], [ 'CONTINUATION of nothing', 'closed', frame(9, $WHOLE, 1, $half) ],
    );
    $_->[2] = $OPEN . $_->[2] for @scripts;
    push @scripts, [ 'half a preface', 'closed', substr($PREFACE, 0, 18) . "XX\r\n\r\n" ];
    return map { { name => $_->[0], tls => $tls, wants => $_->[1], bytes => $_->[2] } } @scripts;
}

# Without TLS mod_http2 looks for the preface in what is there of it: event answers 400 when that is not all.
sub with_whole_preface {
    my ($first, @more) = map { [@$_] } @_;
    $first->[1] .= (shift @more)->[1] while @more && length $first->[1] < length $PREFACE;
    return [ $first, @more ];
}

1;
