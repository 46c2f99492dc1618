# SPDX-License-Identifier: Apache-2.0
package Hybrid::Chromium;

# A headless Chromium with an empty profile of its own, driven by its DevTools over a pipe. It takes any certificate.
#
#   my $browser = Hybrid::Chromium->new;
#   my $page = $browser->page;                       # a tab
#   $page->go($url);                                 # loads it: the error, such as net::ERR_EMPTY_RESPONSE, or undef
#   $page->run('1 + 1');                             # what JavaScript gives, when a promise has been kept
#   my $end = $page->start('load(5)'); $end->();     # the same, without waiting for it yet
#
# Every wait has a limit and dies when it is reached.

use strict;
use warnings;
use Carp;
use File::Path qw(remove_tree);
use File::Temp qw(tempdir);
use IO::Handle;
use IO::Select;
use JSON::PP;
use POSIX ();
use Hybrid::Packages qw(program);
use Hybrid::Wait;

my $LIMIT = 120;
my @FLAGS = qw(--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --disable-dev-shm-usage --disable-background-timer-throttling
    --disable-renderer-backgrounding --disable-backgrounding-occluded-windows --ignore-certificate-errors
    --remote-debugging-pipe);

# Why there can't be one; undef when there can.
sub missing {
    return if eval { program('chromium') };
    return 'this machine has no chromium: build/install-deps brings it where the release has it';
}

sub new {
    my ($class) = @_;
    my $profile = tempdir('hybrid-chromium-XXXXXX', TMPDIR => 1);
    my $self = bless { owner => $$, profile => $profile, last => 0, buffer => '' }, $class;
    pipe my $commands, $self->{to} or croak "pipe: $!";
    pipe $self->{from}, my $answers or croak "pipe: $!";
    $self->{to}->autoflush(1);
    my @command = (program('chromium'), @FLAGS, "--user-data-dir=$self->{profile}", 'about:blank');
    $self->{pid} = fork // croak "fork: $!";
    if (!$self->{pid}) {
        setpgrp;
        my ($in, $out) = map { POSIX::dup(fileno $_) } $commands, $answers; # 3 and 4 may be among them
        POSIX::dup2(POSIX::dup2($in, 100), 3); # what it reads commands from
        POSIX::dup2($out, 4);
        open STDERR, '>', "$self->{profile}/stderr";
        open STDOUT, '>&', \*STDERR;
        $ENV{HOME} = $self->{profile};
        exec @command or POSIX::_exit(127);
    }
    return $self;
}

sub send {
    my ($self, $method, $parameters, $session) = @_;
    my $id = ++$self->{last};
    my %message = (id => $id, method => $method, params => $parameters || {}, $session ? (sessionId => $session) : ());
    print { $self->{to} } encode_json(\%message) . "\0" or croak "chromium: $!";
    return $id;
}

# The answer to a command.
sub answer {
    my ($self, $id) = @_;
    my $end = monotonic() + $LIMIT;
    until ($self->{answers}{$id}) {
        my $left = $end - monotonic();
        croak 'chromium does not answer' if $left <= 0 || !IO::Select->new($self->{from})->can_read($left);
        sysread $self->{from}, $self->{buffer}, 1 << 20, length $self->{buffer}
            or croak "chromium has ended: " . $self->said;
        while ($self->{buffer} =~ s/^([^\0]*)\0//) {
            my $message = decode_json($1);
            $self->{answers}{ $message->{id} } = $message if $message->{id};
        }
    }
    my $answer = delete $self->{answers}{$id};
    croak "chromium: $answer->{error}{message}" if $answer->{error};
    return $answer->{result};
}

sub ask { my ($self, @what) = @_; return $self->answer($self->send(@what)) }

sub said { my ($self) = @_; open my $in, '<', "$self->{profile}/stderr" or return ''; local $/; return <$in> }

sub page {
    my ($self) = @_;
    my $target = $self->ask('Target.createTarget', { url => 'about:blank' })->{targetId};
    my $session = $self->ask('Target.attachToTarget', { targetId => $target, flatten => JSON::PP::true })->{sessionId};
    return bless { browser => $self, session => $session }, 'Hybrid::Chromium::Page';
}

# It ends when nobody can tell it anything any more.
sub DESTROY {
    my ($self) = @_;
    return if $self->{owner} != $$;
    local ($?, $!, $@);
    close $self->{to};
    wait_for(sub { waitpid($self->{pid}, POSIX::WNOHANG()) == $self->{pid} }, 10) or kill 'KILL', -$self->{pid};
    waitpid $self->{pid}, 0;
    remove_tree($self->{profile});
}

package Hybrid::Chromium::Page;

use strict;
use warnings;
use Carp;

sub go {
    my ($self, $url) = @_;
    my $error = $self->{browser}->ask('Page.navigate', { url => $url }, $self->{session})->{errorText};
    return $error if $error;
    $self->run('new Promise(done => document.readyState === "complete" ? done() : addEventListener("load", done))'
            . '.then(() => undefined)');
    return;
}

sub start {
    my ($self, $script) = @_;
    my $what = { expression => $script, awaitPromise => JSON::PP::true, returnByValue => JSON::PP::true };
    my $id = $self->{browser}->send('Runtime.evaluate', $what, $self->{session});
    return sub {
        my $result = $self->{browser}->answer($id);
        my $failure = $result->{exceptionDetails};
        croak "in the page: $failure->{text} $result->{result}{description}" if $failure;
        return $result->{result}{value};
    };
}

sub run { my ($self, $script) = @_; return $self->start($script)->() }

1;
