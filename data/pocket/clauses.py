"""Clause lists of the grammar, one item a line: short independent pieces, never whole texts.

Slots: {A} {B} the two people, {S} the one who acts, {C} a third name, {P} either of the two,
{place}, {obj}. The lists are split into a trained and a held-out part by `text.split_pools`.
"""

from __future__ import annotations

from .text import lines

TIMES = lines("""
yesterday
last night
last week
last summer
last winter
on Monday
on Friday
on Sunday
one day
one morning
one evening
one sunny day
one cold night
early in the morning
late in the evening
in the afternoon
at noon
at midnight
a few days ago
two weeks ago
many years ago
this morning
that evening
on the first day
on a rainy day
after dinner
before lunch
after school
after work
during the holiday
at the end of the week
in the spring
in the autumn
a long time ago
the other day
some time ago
on a quiet afternoon
before sunrise
after the concert
after the meeting
during the break
at the weekend
just before closing time
""")

LINKS = lines("""
then
later
after that
afterwards
soon
finally
in the end
after a while
a little later
at last
suddenly
before leaving
without a word
to everyone's surprise
at the end
a moment later
after a short rest
next
on the way home
when the sun went down
when it was time to go
with a smile
after some time
that same day
the next day
in the meantime
because it was late
as the rain stopped
once they were ready
by evening
before the door closed
when nobody was looking
after a long talk
an hour later
as a surprise
as always
for no reason
to be kind
out of habit
the following morning
two days later
when the music stopped
""")

SUBORDINATORS = lines("""
when
after
while
as
because
since
once
as soon as
just after
now that
""")

MEETINGS = lines("""
{A} and {B} went to {place}
{A} and {B} were at {place}
{A} and {B} were working at {place}
{A} and {B} came back from {place}
{A} and {B} walked to {place} together
{A} and {B} had a long argument
{A} and {B} were having lunch at {place}
{A} and {B} had a lot of fun at {place}
{A} and {B} were thinking about going to {place}
{A} and {B} got lost near {place}
{A} and {B} drove to {place}
{A} and {B} sat down in {place}
{A} and {B} talked all day
{A} and {B} left {place}
{A} and {B} were playing together
{A} and {B} finished their work
{A} and {B} were on the way to {place}
{A} met {B} at {place}
{A} met {B}
{A} was at {place} with {B}
{A} went to {place} with {B}
{A} came to {place} to see {B}
{A} found {B} at {place}
{A} saw {B} near {place}
{A} visited {B}
{A} was waiting for {B} at {place}
{A} had dinner with {B}
{A} was sitting next to {B}
{A} came home with {B}
{A} joined {B} at {place}
{A} and a friend named {B} went to {place}
{A} ran into {B} at {place}
{A} invited {B} to {place}
{A} stood beside {B} at {place}
{A} helped {B} in {place}
{A} and {B} spent the day at {place}
{A} was cleaning {place} with {B}
both {A} and {B} were at {place}
{A} arrived at {place} and {B} was already there
{A} was reading and {B} was cooking
{A} was tired and {B} was hungry
{A} opened the door and {B} came in
there were only two people at {place}, {A} and {B}
two friends, {A} and {B}, were at {place}
{A} called {B} and they met at {place}
{A} was in the kitchen and {B} was in the garden
""")

# Places that do not go with "at".
NOT_AT = frozenset(
    {
        "the kitchen",
        "the bedroom",
        "the garden",
        "the island",
        "the forest",
        "the village",
        "the city",
        "the meeting",
    }
)

TRIOS = lines("""
{A}, {B} and {C} went to {place}
{A}, {B} and {C} were at {place}
{A} and {B} met {C} at {place}
{A}, {B} and {C} had lunch together
{A} came to {place} with {B} and {C}
{A}, {B} and {C} were working at {place}
{A} and {B} were at {place} with {C}
three friends, {A}, {B} and {C}, walked to {place}
""")

LEAVINGS = lines("""
{C} had to leave early
{C} went home
{C} left soon
{C} was tired and went to bed
{C} did not stay
{C} said goodbye and left
after an hour {C} was gone
{C} took the bus home
""")

ABSENT = lines("""
{C} was not there
{C} could not come
{C} had stayed at home
{C} was away that day
{C} was ill and stayed in bed
they talked about {C}
they had not seen {C} for years
nobody knew where {C} was
{C} had sent a letter from far away
the house had once belonged to {C}
they were both friends of {C}
a song by {C} was playing on the radio
everyone was waiting for news from {C}
{C} had told them about the place
it was the birthday of {C}, who lived far away
they missed {C}
""")

SCENES = lines("""
the sun was shining
it was raining
it was very cold outside
the weather was warm and clear
the wind was strong
the room was full of people
there was nobody else
the place was quiet
music was playing
it was getting dark
the street was empty
snow was falling
the windows were open
everything was ready
the day had been long
a dog was sleeping in the corner
there was a smell of fresh bread
birds were singing in the trees
the lights were on
it was almost time to go
the train was late
there was a lot to do
it was a day like any other
the tables were full
a clock struck five
children were playing outside
""")

TOGETHER = lines("""
they talked for a long time
they were good friends
they had known each other for years
they laughed a lot
they did not say much
they sat by the window
they looked around
they were both tired
they ate some bread and cheese
they had a good time
they wanted to rest
they waited for the bus
they spoke about the old days
they decided to stay for a while
they were glad to be there
""")

ALONE = lines("""
{P} looked tired
{P} was hungry
{P} opened the window
{P} sat down
{P} was in a good mood
{P} had a new coat
{P} was looking for the keys
{P} wanted to go home
{P} had been there before
{P} was thinking about the next day
{P} knew the place well
{P} felt a little cold
{P} smiled
{P} said nothing
{P} had forgotten something
{P} was wearing a red hat
{P} bought some bread
{P} looked at the clock
{P} had brought some food
{P} took off the coat
{P} was the first to speak
{P} had a plan
""")

ACTORS = lines("""
{S}
{S}
{S}
{S}
{S}
{S}
{S}, who was tired,
{S}, who had been there before,
{S}, the older of the two,
{S}, with a smile,
{S}, together with a small dog,
{S}, who liked surprises,
{S}, still cold from the wind,
{S} smiled and
{S} stood up and
{S} came closer and
{S} sat down and
{S} thought for a moment and
{S} turned around and
it was {S} who
{S} quickly
{S} slowly
{S} happily
{S} quietly
{S} kindly
{S} finally
{S} also
{S} only
{S} once again
""")

BASE_ACTORS = lines("""
{S} decided to
{S} wanted to
{S} had to
{S} was going to
{S} tried to
{S} was about to
{S} hoped to
{S} promised to
{S} was happy to
{S} forgot to
{S} agreed to
{S} offered to
{S} began to
{S} would
{S} could
{S} did not want to
""")

# past|base|rest; {obj} is a thing one can hand over. The receiver comes next.
TRANSFERS = lines("""
gave|give|{obj} to
gave|give|{obj} to
gave|give|{obj} to
gave|give|{obj} to
gave|give|{obj} back to
handed|hand|{obj} to
handed|hand|{obj} over to
passed|pass|{obj} to
sent|send|{obj} to
lent|lend|{obj} to
sold|sell|{obj} to
threw|throw|{obj} to
showed|show|{obj} to
offered|offer|{obj} to
brought|bring|{obj} to
returned|return|{obj} to
took|take|{obj} to
carried|carry|{obj} to
handed|hand|{obj} to
pushed|push|{obj} to
gave|give|some money to
told|tell|a story to
read|read|a letter to
served|serve|a drink to
gave|give|{obj} and some money to
gave|give|the last piece of bread to
showed|show|the way to
presented|present|{obj} to
promised|promise|{obj} to
gave|give|a kiss to
""")

OTHERS = lines("""
said|say|hello to
said|say|goodbye to
said|say|thank you to
spoke|speak|to
talked|talk|to
waved|wave|to
wrote|write|a letter to
listened|listen|to
explained|explain|the problem to
turned|turn|to
bought|buy|{obj} for
made|make|a cake for
cooked|cook|dinner for
opened|open|the door for
sang|sing|a song for
kept|keep|{obj} for
found|find|{obj} for
paid|pay|for
sat|sit|next to
danced|dance|with
argued|argue|with
agreed|agree|with
played|play|with
shared|share|the food with
left|leave|with
walked|walk|home with
looked|look|at
smiled|smile|at
laughed|laugh|at
pointed|point|at
shouted|shout|at
thanked|thank|
hugged|hug|
followed|follow|
helped|help|
asked|ask|
called|call|
took|take|{obj} from
borrowed|borrow|{obj} from
got|get|{obj} from
received|receive|{obj} from
bought|buy|{obj} from
hid|hide|{obj} from
ran|run|away from
waited|wait|for
looked|look|for
""")

OUTSIDERS = lines("""
a friend
the dog
a stranger
an old man
the children
a neighbour
the teacher
a child
everyone
the cook
an old woman
""")

AFTERWARDS = lines("""
{subject} said thank you
{subject} was very happy
{subject} smiled
{subject} was surprised
{subject} did not know what to say
{subject} laughed
{subject} put it on the table
{subject} was glad to have such a friend
{subject} looked at it for a long time
{subject} went home soon after
{subject} told everyone about it
{subject} had wanted it for years
""")

# A clause about one person; the pronoun follows its subject.
CAUSES = lines("""
was tired because
was happy because
was sad because
was late because
went home because
stayed in bed because
was angry because
smiled because
was proud because
felt cold because
was afraid because
said that
hoped that
thought that
knew that
believed that
was sure that
was glad that
forgot that
felt that
opened the door and then
sat down and then
came home and
was hungry, so
was thirsty, so
felt ill, so
wanted to sleep, but
looked everywhere, but
ran fast, but
worked hard, and soon
took a coat before
waited until
""")

PRONOUN_TAILS = lines("""
had slept badly
had won a prize
had lost the game
had missed the bus
was not well
had a new job
had found the keys
could not sleep
was going to be late
wanted to see the sea
had seen a bear
had no coat
was right
would be famous one day
had made a mistake
needed help
would win
had to leave
was ready
went to bed
ate some bread
drank some water
looked out of the window
called a doctor
was very tired
""")

COMPANIONS = lines("""
{N}, a friend of {B},
{N}, who lived next to {B},
{N}, who had once worked with {B},
after meeting {B}, {N}
before calling {B}, {N}
like {B}, {N}
{B} was away, and {N}
{B} had already left, but {N}
unlike {B}, {N}
without {B}, {N}
{N} met {B} and
{N} saw {B} and
with the help of {B}, {N}
{N}, who knew {B} well,
""")
